"""`runyard alive`: a probe fails for a process that is not there, not for the database's outage."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runyard.cli.main import main
from runyard.processes.heartbeat_file import HeartbeatFile
from runyard.settings import settings
from runyard.store import database
from tests.ports import free_port
from tests.tables import rows

_REPORT = """
    INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace, remote, heartbeat_at)
    VALUES (%s, %s, 1, 2, '', %s, now() - %s * interval '1 s') RETURNING 1
"""


def probe(role: str) -> Result:
    return CliRunner().invoke(main, ["alive", role])


def report(host: str, *, seconds_ago: int = 0, remote: bool = False) -> None:
    """Record the heartbeat of a worker."""
    rows(_REPORT, f"{host}:1", host, remote, seconds_ago)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder in which no daemon has been."""
    folder = tmp_path / "data"
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(folder))
    settings.cache_clear()
    yield folder
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def outage() -> Iterator[None]:
    """A database that does not answer."""
    url = os.environ["DATABASE_URL"]
    database.close_pool()
    os.environ["DATABASE_URL"] = f"postgresql://runyard@127.0.0.1:{free_port()}/runyard"
    settings.cache_clear()
    yield
    database.close_pool()
    database.wait_for_connection(10)
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()


def test_a_worker_that_has_just_reported_is_alive() -> None:
    report(socket.gethostname())
    assert probe("worker").exit_code == 0


def test_a_worker_that_has_been_silent_for_a_lease_is_not_alive() -> None:
    report(socket.gethostname(), seconds_ago=int(settings().lease_seconds) + 1)
    result = probe("worker")
    assert result.exit_code == 1
    assert f"no worker of the host {socket.gethostname()} has reported for 10 s" in result.output


def test_a_worker_of_another_host_says_nothing_of_this_one() -> None:
    report("elsewhere")
    assert probe("worker").exit_code == 1


def test_the_caller_of_a_dead_worker_does_not_stand_in_for_it() -> None:
    report(socket.gethostname(), remote=True)
    assert probe("worker").exit_code == 1


def test_a_daemon_whose_loop_goes_round_is_alive(data: Path) -> None:
    HeartbeatFile().of_loop()()
    assert probe("daemon").exit_code == 0


def test_a_daemon_that_never_was_alive_in_this_data_folder_is_not(data: Path) -> None:
    result = probe("daemon")
    assert result.exit_code == 1
    assert f"no daemon with the data folder {data} has been alive for 120 s" in result.output


def test_a_daemon_that_has_stood_still_for_two_minutes_is_not_alive(data: Path) -> None:
    HeartbeatFile().of_loop()()
    stood_still_at = time.time() - 121
    os.utime(data / "daemon.heartbeat", (stood_still_at, stood_still_at))
    assert probe("daemon").exit_code == 1


def test_the_heartbeat_of_an_earlier_daemon_does_not_stand_in_for_the_next(data: Path) -> None:
    HeartbeatFile().of_loop()()
    HeartbeatFile()
    assert probe("daemon").exit_code == 1


def test_a_daemon_of_which_one_loop_has_stopped_is_not_alive(data: Path) -> None:
    now = 0.0
    heartbeat = HeartbeatFile(lambda: now)
    heartbeat.of_loop()
    progress = heartbeat.of_loop()
    now = 61.0
    progress()
    assert probe("daemon").exit_code == 1


def test_a_daemon_of_which_each_loop_goes_round_now_and_then_is_alive(data: Path) -> None:
    now = 0.0
    heartbeat = HeartbeatFile(lambda: now)
    others, progress = heartbeat.of_loop(), heartbeat.of_loop()
    now = 30.0
    others()
    (data / "daemon.heartbeat").unlink()
    now = 61.0
    progress()
    assert probe("daemon").exit_code == 0


def test_a_web_process_that_does_not_answer_is_not_alive() -> None:
    result = probe("web")
    assert result.exit_code == 1
    assert f"does not answer on port {settings().port}" in result.output


@pytest.mark.parametrize("role", ["worker", "daemon"])
def test_while_the_database_is_away_nothing_is_restarted(outage: None, role: str) -> None:
    result = probe(role)
    assert (result.exit_code, result.output) == (0, "unknown: the database does not answer\n")
