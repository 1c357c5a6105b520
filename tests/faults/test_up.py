"""`runyard up` as a person uses it, and stock `dagster dev`.

It gets ready, reloads code that changes, and leaves nothing behind after Ctrl-C.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from runyard import send
from runyard.settings import Settings
from runyard.store.embedded import delete_embedded, embedded_url
from tests.conftest import ROOT, event, wait_until
from tests.servers import redis

MAIL = '{"to": "ada@example.com", "subject": "Hi", "text": "Hello"}'


@pytest.fixture
def home() -> Iterator[Path]:
    """A copy of the project in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="ryh-", dir="/tmp"))
    for name in (
        "pipelines",
        "sensors",
        "schedules",
        "assets",
        "resources",
        "templates",
        "config",
        "runyard",
        "definitions.py",
        "dagster.yaml",
        "pyproject.toml",
        "workspace.yaml",
    ):
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(
            source, folder / name
        )
    yield folder
    delete_embedded(postgres_dir(folder))
    shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """The environment of a person who has set only a port."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNYARD_", "DAGSTER_", "SENDGRID_", "MAIL_", "DATABASE_URL"))
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {**kept, "RUNYARD_PORT": str(port), "PYTHONPATH": str(home)}


def postgres_dir(home: Path) -> Path:
    """The folder of the database of a project that configures none."""
    return Settings(home=home, data_dir=home / ".runyard", postgres_folder=None).postgres_dir


def query(home: Path, statement: str) -> list[tuple[object, ...]]:
    url = embedded_url(postgres_dir(home))
    assert url is not None
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def open_to_others(folder: Path) -> list[Path]:
    """The files in a folder, and the folder itself, whose mode lets other users in."""
    paths: list[Path] = []
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # a message of the broker that is gone by now
            if path.lstat().st_mode & 0o077 and not path.is_symlink():
                paths.append(path)
    return paths


def _answers(home: Path) -> bool:
    """Whether the database of this folder answers."""
    try:
        return query(home, "SELECT 1") == [(1,)]
    except (psycopg.Error, AssertionError):
        return False


def belonging(home: Path) -> list[str]:
    """The command lines of the processes that belong to this folder."""
    lines: list[str] = []
    for process in psutil.process_iter(["cmdline", "cwd", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        variables = process.info["environ"] or {}
        folders = [variables.get(name, "") for name in ("RUNYARD_HOME", "RUNYARD_DATA_DIR")]
        if (
            str(home) in line
            or process.info["cwd"] == str(home)
            or any(str(home) in folder for folder in folders)
        ):
            lines.append(line)
    return lines


def start_up(home: Path, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start `runyard up`; its output is in the file `up.log` of the folder."""
    with (home / "up.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "runyard", "up"],
            cwd=home,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def up_until_ctrl_c(home: Path, variables: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """`runyard up`, ready; Ctrl-C ends it."""
    up = start_up(home, variables)
    try:
        wait_until(lambda: is_ready(home), 90)
        yield up
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(30)


def is_ready(home: Path) -> bool:
    """Whether `runyard up` has said so."""
    return "Ready." in (home / "up.log").read_text()


def test_up_is_ready_reloads_code_and_leaves_nothing_on_ctrl_c(home: Path) -> None:
    variables = environment(home)
    with up_until_ctrl_c(home, variables) as up:
        assert query(home, "SELECT max_batch FROM runyard.functions WHERE name = 'send_email'") == [
            (500,)
        ]
        assert ("RUNYARD_POSTGRES_DIR" in (home / "up.log").read_text()) == (os.geteuid() == 0)

        # A second one is refused, and leaves the first one alone.
        command = [sys.executable, "-m", "runyard", "up"]
        second = subprocess.run(
            command, cwd=home, env=variables, capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "is running already" in second.stderr
        assert up.poll() is None
        assert _answers(home)

        # The database restarts when it dies.
        server = postgres_dir(home) / "postmaster.pid"
        os.kill(int(server.read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: _answers(home), 30)

        source = home / "sensors" / "email.py"
        source.write_text(source.read_text().replace("max_batch=500", "max_batch=7"))
        wait_until(
            lambda: (
                query(home, "SELECT max_batch FROM runyard.functions WHERE name = 'send_email'")
                == [(7,)]
            ),
            60,
        )

        send = subprocess.run(
            [
                sys.executable,
                "-m",
                "runyard",
                "send",
                "email/send.requested",
                "--data",
                MAIL,
            ],
            cwd=home,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        wait_until(
            lambda: list((home / ".runyard" / "outbox").glob(f"{send.stdout.strip()}-*.eml")), 60
        )
        assert open_to_others(home / ".runyard") == []
        assert open_to_others(postgres_dir(home)) == []
    assert up.returncode == 0
    assert belonging(home) == []
    assert embedded_url(postgres_dir(home)) is None
    late = subprocess.run(
        [sys.executable, "-m", "runyard", "send", "email/send.requested", "--data", MAIL],
        cwd=home,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert late.returncode == 1
    # Nothing was sent, and that is certain.
    assert "unknown" not in late.stderr
    assert "runyard up" in late.stderr
    text = (home / "up.log").read_text()
    # Two processes write to this file, and neither overwrites the other.
    assert text.startswith("Starting: database")
    assert text.rstrip().endswith("Stopped.")
    # Whichever part logged the end of the database, its line is prefixed with its name.
    assert re.search(r"^(postgres|code|daemon|worker|web) +\| ", text, re.MULTILINE)


def test_redis_can_carry_the_runs(home: Path, tmp_path: Path) -> None:
    with (
        redis(tmp_path) as broker,
        up_until_ctrl_c(home, {**environment(home), "RUNYARD_BROKER_URL": broker.url}),
    ):
        [(event_id,)] = query(home, f"SELECT runyard.send('email/send.requested', '{MAIL}')")
        wait_until(lambda: list((home / ".runyard" / "outbox").glob(f"{event_id}-*.eml")), 60)
        assert not list((home / ".runyard").glob("broker/queue/*"))


def test_a_killed_up_leaves_no_stack_behind(home: Path) -> None:
    up = start_up(home, environment(home))
    wait_until(lambda: is_ready(home), 90)
    up.kill()
    up.wait()
    wait_until(lambda: not belonging(home), 20)
    assert embedded_url(postgres_dir(home)) is None


def test_an_up_that_is_stopped_before_its_supervisor_listens_leaves_no_stack_behind(
    home: Path,
) -> None:
    up = start_up(home, environment(home))
    wait_until(lambda: any("supervisor.supervisord" in line for line in belonging(home)), 60)
    up.send_signal(signal.SIGINT)
    up.wait(30)
    wait_until(lambda: not belonging(home), 20)


def of_the_tests(folder: Path, url: str) -> dict[str, str]:
    """The variables of a stack with the functions of the tests, and its data in this folder."""
    (folder / "effects").mkdir()
    return {
        **environment(folder),
        "RUNYARD_CODE": "tests.code",
        "RUNYARD_CONCURRENCY": "1",
        "RUNYARD_DATA_DIR": str(folder / "data"),
        "RUNYARD_DISCOVER_APPS": "0",
        "RUNYARD_EFFECTS": str(folder / "effects"),
        "RUNYARD_HOME": str(ROOT),
        "DAGSTER_HOME": str(ROOT),
        "DATABASE_URL": url,
    }


_WITHOUT_WORKERS = """
from runyard.processes.stack import Stack

with Stack(("code", "daemon"), quiet=True):
    input("Ready.\\n")
"""


def test_a_run_that_began_without_a_worker_and_ignores_signals_ends_with_the_stack(
    own_database: str, tmp_path: Path
) -> None:
    stack = subprocess.Popen(
        [sys.executable, "-c", _WITHOUT_WORKERS],
        cwd=ROOT,
        env=of_the_tests(tmp_path, own_database),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert stack.stdout is not None
    try:
        assert stack.stdout.readline() == b"Ready.\n"
        send("test/patient", {"key": "begun", "how": "wait", "ignores_signals": True})
        wait_until((tmp_path / "effects" / "begun").exists, 90)
    finally:
        stack.communicate(b"\n", timeout=60)
    assert belonging(tmp_path) == []


@pytest.fixture
def draining(own_database: str, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A `runyard up` that drains for ten minutes, because of a run of this event."""
    log = tmp_path / "up.log"
    variables = {**of_the_tests(tmp_path, own_database), "RUNYARD_DRAIN_TIMEOUT": "600"}
    with log.open("w") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "runyard", "up"],
            cwd=ROOT,
            env=variables,
            stdout=output,
            stderr=output,
        )
    family: list[psutil.Process] = []
    try:
        wait_until(lambda: "Ready." in log.read_text(), 90)
        hangs = {"key": "begun", "how": "wait", "hang_until": 0, "seconds": 600}
        [event_id] = send("test/patient", hangs)
        wait_until((tmp_path / "effects" / "begun").exists, 60)
        family = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGINT)
        wait_until(lambda: "draining: 1 run left" in log.read_text())
        yield up, event_id
    finally:
        up.kill()
        up.wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_second_ctrl_c_ends_an_up_that_drains_at_once_with_its_run_handed_back(
    draining: tuple["subprocess.Popen[bytes]", str], tmp_path: Path
) -> None:
    up, event_id = draining
    up.send_signal(signal.SIGINT)
    assert up.wait(20) == 0
    assert (tmp_path / "up.log").read_text().rstrip().endswith("Stopped.")
    assert belonging(tmp_path) == []
    [invocation] = event(event_id)["invocations"]
    assert invocation["status"] == "queued"
    assert invocation["attempt"] == 0


def _is_told_to_stop(process: psutil.Process) -> bool:
    """Whether a stopped process has a SIGTERM that it has not seen yet."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [pending] = re.findall(r"^ShdPnd:\s+(\w+)$", status, re.MULTILINE)
    return bool(int(pending, 16) & 1 << (signal.SIGTERM - 1))


def test_a_third_ctrl_c_kills_a_worker_that_does_not_respond(
    draining: tuple["subprocess.Popen[bytes]", str], tmp_path: Path
) -> None:
    up, _ = draining
    worker = next(
        process
        for process in psutil.Process(up.pid).children(recursive=True)
        if (process.as_dict(["cmdline"])["cmdline"] or [])[-2:] == ["runyard", "worker"]
    )
    worker.suspend()
    up.send_signal(signal.SIGINT)
    wait_until(lambda: _is_told_to_stop(worker))
    up.send_signal(signal.SIGINT)
    assert up.wait(10) == 0
    assert belonging(tmp_path) == []


def _block_of_readme(command: str) -> str:
    """The block of shell commands in the README that contains a command."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    [matching] = [block for block in blocks if command in block]
    return matching


def test_dagster_dev_works_as_in_the_readme_without_any_variable(home: Path) -> None:
    (home / ".venv").symlink_to(sys.prefix)
    variables = {name: value for name, value in environment(home).items() if name != "RUNYARD_PORT"}
    log = home / "dev.log"
    with log.open("w") as output:
        dev = subprocess.Popen(
            ["bash", "-e", "-c", _block_of_readme("dagster dev")],
            cwd=home,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        # Dagster starts after `runyard migrate` has created the database that `_answers` asks.
        wait_until(
            lambda: (
                dev.poll() is not None
                or (_answers(home) and "Serving dagster-webserver" in log.read_text())
            ),
            90,
        )
        assert dev.poll() is None, log.read_text()
        send = subprocess.run(
            [
                home / ".venv" / "bin" / "runyard",
                "send",
                "email/send.requested",
                "--data",
                MAIL,
            ],
            cwd=home,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        wait_until(
            lambda: query(home, "SELECT status FROM runyard.invocations") == [("succeeded",)], 90
        )
        assert list((home / ".runyard" / "outbox").glob(f"{send.stdout.strip()}-*.eml"))
    finally:
        children = psutil.Process(dev.pid).children(recursive=True)
        for child in children:
            child.send_signal(signal.SIGINT)
        psutil.wait_procs(children, 20)
        for child in children:
            if child.is_running():
                child.kill()
        dev.wait()
    # As in the terminal of the README's commands, with the database's URL in the environment.
    down = 'eval "$(.venv/bin/runyard env)" && .venv/bin/runyard down'
    subprocess.run(["bash", "-c", down], cwd=home, env=variables, check=True, capture_output=True)
    assert embedded_url(postgres_dir(home)) is None


def test_a_bad_edit_is_shown_at_once_while_the_last_good_code_serves_on(home: Path) -> None:
    variables = environment(home)
    log, source = home / "up.log", home / "sensors" / "email.py"
    good = source.read_text()
    page = f"http://127.0.0.1:{variables['RUNYARD_PORT']}/dev/send"
    with up_until_ctrl_c(home, variables):
        source.write_text(f"{good}\nundefined_name\n")
        line = len(good.splitlines()) + 2
        problem = f"sensors/email.py:{line}: NameError: name 'undefined_name' is not defined"
        wait_until(lambda: f"The code does not load: {problem}" in log.read_text(), 60)
        assert "Traceback" not in log.read_text()
        assert f"<code>sensors/email.py:{line}</code>" in httpx.get(page).text

        [(event_id,)] = query(home, f"SELECT runyard.send('email/send.requested', '{MAIL}')")
        wait_until(lambda: list((home / ".runyard" / "outbox").glob(f"{event_id}-*.eml")), 60)

        source.write_text(good.replace("max_batch=500", "max_batch=7"))
        wait_until(lambda: "The code loads again." in log.read_text(), 60)
        assert "The code does not load" not in httpx.get(page).text
        wait_until(
            lambda: (
                query(home, "SELECT max_batch FROM runyard.functions WHERE name = 'send_email'")
                == [(7,)]
            ),
            60,
        )


def test_up_with_code_that_does_not_load_ends_with_one_line_that_names_the_place(
    home: Path,
) -> None:
    source = home / "sensors" / "email.py"
    source.write_text(f"import no_such_package\n{source.read_text()}")
    up = subprocess.run(
        [sys.executable, "-m", "runyard", "up"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert up.returncode == 1
    [said] = [line for line in up.stderr.splitlines() if "no_such_package" in line]
    assert said.startswith("runyard: the code does not load: sensors/email.py:1: ModuleNotFound")
    assert "Traceback" not in up.stderr + up.stdout
    assert belonging(home) == []


def test_with_json_logs_every_line_of_the_stack_is_json(home: Path) -> None:
    source, log = home / "sensors" / "email.py", home / "up.log"
    source.write_text(f"{source.read_text()}\nprint('printed by the code')\n")
    with up_until_ctrl_c(home, {**environment(home), "RUNYARD_LOG_FORMAT": "json"}):
        # All parts say that the database is away, some of them with tracebacks.
        server = postgres_dir(home) / "postmaster.pid"
        os.kill(int(server.read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: "starting it again" in log.read_text(), 30)
        wait_until(lambda: _answers(home), 30)
        source.write_text(f"{source.read_text()}\nundefined_name\n")
        wait_until(lambda: "NameError" in log.read_text(), 60)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in lines if not line["message"]] == []
    messages = {line["message"]: line.get("process") for line in lines}
    assert messages["printed by the code"] in ("code", "worker")
    assert messages["the server has died; starting it again"] == "postgres"
    assert lines[-1]["message"] == "Stopped."
