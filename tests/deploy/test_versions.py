"""Two versions of the code at once: a run that one has launched reaches a worker of the other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard import send
from runyard.dagster_adapter.sensor_loop import SensorLoop
from runyard.processes.workers import retry_launches
from tests.code_server import loaded_code
from tests.conftest import ROOT, event, use_database, wait_until
from tests.tables import empty_tables, rows

MODULE = "shop_in_versions"
_COMMON = """
from runyard import Item, Run, definitions, function, step

@step
def one(item: Item) -> str:
    return VERSION

@step
def two(item: Item) -> str:
    return VERSION

@function("versions/kept")
def kept(run: Run) -> None:
    one(run)
"""
OLD = f"""VERSION = "old"
{_COMMON}
@function("versions/grows")
def grows(run: Run) -> None:
    one(run)

@function("versions/removed")
def removed(run: Run) -> None:
    one(run)

defs = definitions(kept, grows, removed)
"""
NEW = f"""VERSION = "new"
{_COMMON}
@function("versions/grows")
def grows(run: Run) -> None:
    one(run)
    two(run)

@function("versions/added")
def added(run: Run) -> None:
    one(run)

defs = definitions(kept, grows, added)
"""
_PUBLISH = """
from runyard.functions import registry
from runyard.processes.code_location import load_code
load_code()
registry.publish()
"""
_EXECUTE = """
import sys
from runyard.dagster_adapter import event_log
from runyard.dagster_adapter.execution import execute
from runyard.dagster_adapter.internals import pooled_instance, silence_console
from runyard.engine import batch_leases
from runyard.processes.code_location import load_code
load_code()
batch_leases.set_worker_name("here:1:2")
silence_console()
with pooled_instance() as instance, event_log.batching(instance):
    execute(instance, sys.argv[1])
"""
WORKER = (
    "INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace, heartbeat_at)"
    " VALUES ('here:1', 'here', 1, 4, 'none', now() + interval '1 hour') RETURNING name"
)


class Version:
    """A version of the code."""

    def __init__(self, folder: Path, code: str) -> None:
        self._folder = folder
        folder.mkdir()
        shutil.copy(ROOT / "dagster.yaml", folder)
        (folder / f"{MODULE}.py").write_text(code)

    def publish(self) -> None:
        """Deploy it."""
        self._run(_PUBLISH)

    def execute(self, run_id: str) -> None:
        """Execute a run as its workers do."""
        self._run(_EXECUTE, run_id)

    @contextmanager
    def loop(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[SensorLoop]:
        """The daemon's loop, with the code of this version."""
        monkeypatch.setenv("PYTHONPATH", self._path)
        with loaded_code(MODULE) as context:
            yield SensorLoop(context)

    @property
    def _path(self) -> str:
        return f"{self._folder}{os.pathsep}{ROOT}"

    def _run(self, script: str, *arguments: str) -> None:
        variables = {"PYTHONPATH": self._path, "RUNYARD_CODE": MODULE}
        subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=self._folder,
            env={**os.environ, **variables},
            check=True,
            timeout=60,
        )


@pytest.fixture(scope="module", autouse=True)
def versions_database(server: str) -> str:
    """The URL of the database of these tests."""
    return use_database(server, "versions")


@pytest.fixture
def old(tmp_path: Path) -> Version:
    """The version that is deployed, with a worker."""
    empty_tables("runyard.workers", "runyard.failed_launches")
    version = Version(tmp_path / "old", OLD)
    version.publish()
    rows(WORKER)
    return version


@pytest.fixture
def new(old: Version, tmp_path: Path) -> Version:
    """The version that is to be deployed."""
    return Version(tmp_path / "new", NEW)


def launched(by: Version, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Send an event, and let the daemon of a version launch its run; their ids."""
    [event_id] = send(name)
    return event_id, run_of_what_is_due(by, monkeypatch)


def run_of_what_is_due(by: Version, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the daemon of a version launch what is due; the id of the run."""
    with by.loop(monkeypatch) as loop:
        wait_until(lambda: loop.evaluate_due() == 0)
    [batch] = rows("SELECT id FROM runyard.batches WHERE status = 'claimed'")
    [run] = rows("SELECT run_id FROM run_tags WHERE value = %s LIMIT 1", batch["id"])
    return str(run["run_id"])


def outcome(event_id: str) -> tuple[str, int, dict[str, object]]:
    """The status of the event's invocation, its attempts, and the results of its steps."""
    [invocation] = event(event_id)["invocations"]
    steps = rows(
        "SELECT step, output FROM runyard.steps WHERE invocation_id = %s", invocation["id"]
    )
    results = {row["step"]: row["output"] for row in steps}
    return invocation["status"], invocation["attempt"], results


def seconds_until_launch() -> float:
    """When the function that could not be launched is tried again."""
    [row] = rows(
        "SELECT extract(epoch FROM until - now())::float8 AS s FROM runyard.failed_launches"
    )
    return float(row["s"])


def test_a_run_of_the_old_version_does_the_steps_of_the_worker_that_takes_it(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, run = launched(old, "versions/grows", monkeypatch)
    new.publish()
    new.execute(run)
    assert outcome(event_id) == ("succeeded", 1, {"one": "new", "two": "new"})


def test_a_run_of_the_new_version_does_the_steps_of_the_worker_that_takes_it(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.publish()
    event_id, run = launched(new, "versions/grows", monkeypatch)
    old.execute(run)
    assert outcome(event_id) == ("succeeded", 1, {"one": "old"})


def test_a_function_that_the_worker_does_not_have_yet_is_launched_again_without_an_attempt(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.publish()
    event_id, run = launched(new, "versions/added", monkeypatch)
    old.execute(run)
    assert outcome(event_id) == ("queued", 0, {})
    assert rows("SELECT function, failures FROM runyard.failed_launches") == [
        {"function": "added", "failures": 1}
    ]


def test_a_worker_that_starts_lets_what_others_did_not_have_be_launched_at_once(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.publish()
    event_id, run = launched(new, "versions/added", monkeypatch)
    old.execute(run)
    rows("UPDATE runyard.failed_launches SET until = until + interval '1 minute' RETURNING until")
    retry_launches()
    assert seconds_until_launch() <= 0
    new.execute(run_of_what_is_due(new, monkeypatch))
    assert outcome(event_id) == ("succeeded", 1, {"one": "new"})


def test_what_a_removed_function_had_launched_waits_for_it_to_come_back(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, run = launched(old, "versions/removed", monkeypatch)
    new.publish()
    new.execute(run)
    assert outcome(event_id) == ("queued", 0, {})
    [late] = send("versions/removed")
    assert event(late)["invocations"] == []
