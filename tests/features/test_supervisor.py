"""A supervisord that hangs is noticed and stopped all the same; Ctrl-C ends only the waiting."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runyard.processes import stack
from runyard.processes.stack import Stack
from runyard.processes.stack_files import socket_path
from runyard.settings import settings
from tests.conftest import ROOT, wait_until

_CONFIG = """
[supervisord]
nodaemon=true
logfile={data}/supervisord.log
pidfile={data}/supervisord.pid
[unix_http_server]
file={socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder without a stack."""
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    monkeypatch.setattr(stack, "_REST_SECONDS", 0)
    settings.cache_clear()
    yield tmp_path / "data"
    settings.cache_clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisord that hangs is waited for briefly."""
    monkeypatch.setattr(stack, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(stack, "_STOP_SECONDS", 1)


@pytest.fixture
def silent_socket(data: Path) -> Iterator[socket.socket]:
    """The socket of a supervisord that answers nothing."""
    path = socket_path("supervisor")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening


@pytest.fixture
def supervisor(data: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisord without programs, which answers."""
    config = Stack().settings.data / "supervisord.conf"
    path = socket_path("supervisor")
    config.write_text(_CONFIG.format(data=data, socket=path))
    started = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: path.exists() and Stack(()).is_running(), 30)
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.mark.usefixtures("silent_socket", "impatient")
def test_a_supervisor_that_hangs_counts_as_running() -> None:
    assert Stack(()).is_running()


def test_a_socket_that_nobody_listens_on_is_no_running_stack(silent_socket: socket.socket) -> None:
    silent_socket.close()
    assert not Stack(()).is_running()


def test_a_supervisor_that_answers_is_stopped(supervisor: "subprocess.Popen[bytes]") -> None:
    Stack(()).stop()
    assert supervisor.wait(10) == 0


@pytest.mark.usefixtures("impatient")
def test_a_supervisor_that_hangs_is_killed(supervisor: "subprocess.Popen[bytes]") -> None:
    supervisor.send_signal(signal.SIGSTOP)
    Stack(()).stop()
    assert supervisor.wait(10) == -signal.SIGKILL


def test_a_process_that_has_the_id_of_a_supervisor_that_is_gone_is_left_alone(data: Path) -> None:
    socket_path("supervisor")
    with subprocess.Popen(["sleep", "60"]) as other:
        (data / "supervisord.pid").write_text(f"{other.pid}\n")
        Stack(()).stop()
        status = other.poll()
        other.kill()
    assert status is None


def test_ctrl_c_during_down_does_not_end_the_script_that_calls_it(
    silent_socket: socket.socket,
) -> None:
    down = f"trap : INT; {sys.executable} -m runyard down; echo the script goes on"
    script = subprocess.Popen(
        ["sh", "-c", down], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    silent_socket.settimeout(60)
    for _ in range(2):  # it asks whether a stack runs, twice as the connection is closed
        silent_socket.accept()[0].close()
    being_stopped, _ = silent_socket.accept()
    [called] = psutil.Process(script.pid).children()
    called.send_signal(signal.SIGINT)
    output, _ = script.communicate(timeout=60)
    being_stopped.close()
    assert output.endswith(b"the script goes on\n")
