"""Runs that get a process of their own, as no warm worker is alive."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus

from runyard import send
from runyard.dagster_adapter.internals import WorkspaceProcessContext
from runyard.dagster_adapter.maintenance import SERVICES, ServiceSchedule
from runyard.dagster_adapter.sensor_loop import SensorLoop
from runyard.functions.registry import Function
from runyard.settings import settings
from tests.code_server import loaded_code
from tests.conftest import Publish, event, settled, wait_until
from tests.slow_start import GATE
from tests.tables import rows

LEASE_SECONDS = 2.0
OUTLASTED = (
    "SELECT id FROM runyard.batches"
    " WHERE launched_at < clock_timestamp() - make_interval(secs => %s)"
)

Context = WorkspaceProcessContext


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What the resource of the function waits for."""
    return tmp_path / "gate"


@pytest.fixture
def context(
    store_url: str, gate: Path, monkeypatch: pytest.MonkeyPatch, publish_functions: Publish
) -> Iterator[Context]:
    """The function's code as the daemon has loaded it; leases are short."""
    monkeypatch.setenv(GATE, str(gate))
    monkeypatch.setenv("RUNYARD_CODE", "tests.slow_start")
    monkeypatch.setenv("RUNYARD_LEASE_SECONDS", str(LEASE_SECONDS))
    settings.cache_clear()
    publish_functions(Function("slow_start", "slow_start", ("test/slow_start",)))
    with loaded_code("tests.slow_start") as loaded:
        for run in loaded.instance.get_runs():
            loaded.instance.delete_run(run.run_id)
        yield loaded
    monkeypatch.undo()
    settings.cache_clear()


def started(context: Context) -> str:
    """Send an event and start its run; the event's id, once the run is creating its resource."""
    [event_id] = send("test/slow_start")
    SensorLoop(context).evaluate_due()
    [run] = context.instance.get_runs()
    wait_until(lambda: has_status(context.instance, run.run_id, DagsterRunStatus.STARTED))
    return event_id


def has_status(instance: DagsterInstance, run_id: str, status: DagsterRunStatus) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status == status


def maintained_until(what: Callable[[], object], context: Context) -> None:
    """Do the maintenance until something is true."""
    schedule = ServiceSchedule(SERVICES)
    wait_until(lambda: schedule.run_due(lambda: context.instance) is not None and what())


def test_a_run_keeps_its_events_while_its_resource_is_created_for_longer_than_a_lease(
    context: Context, gate: Path
) -> None:
    event_id = started(context)
    maintained_until(lambda: rows(OUTLASTED, 3 * LEASE_SECONDS), context)
    gate.touch()
    assert settled(event_id)["status"] == "succeeded"
    assert len(context.instance.get_runs()) == 1


def test_a_run_whose_process_dies_while_its_resource_is_created_gives_its_events_to_another(
    context: Context, gate: Path
) -> None:
    event_id = started(context)
    [run] = context.instance.get_runs()
    for process in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(process.cmdline()):
            process.kill()
    maintained_until(lambda: event(event_id)["invocations"][0]["status"] == "queued", context)
    assert has_status(context.instance, run.run_id, DagsterRunStatus.FAILURE)
