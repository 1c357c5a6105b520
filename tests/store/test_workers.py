"""Dead processes are noticed on their machine at once; a stopping worker hands back its runs."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, job
from dagster._core.events import DagsterEvent
from dagster._core.utils import make_new_run_id

from runyard import send
from runyard.dagster_adapter import reaper
from runyard.engine import batch_claims, batch_leases, settlement
from runyard.engine.due import seconds_until_due
from runyard.engine.settlement import Outcome
from runyard.errors import LeaseLost
from runyard.functions.registry import Function
from runyard.processes import workers
from runyard.store import database
from runyard.store.queries import Row, fetch_all
from tests.tables import rows, wait_for_the_end_of_others


def alive(name: str, place: str | None = None, slots: int = 4) -> None:
    """Let a worker have said that it is alive, from here or from another place."""
    with database.connection() as connection:
        fetch_all(
            connection,
            "heartbeat_worker",
            name=name,
            host="h",
            pid=1,
            slots=slots,
            pid_namespace=place or workers.place(),
            remote=False,
        )


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def begun(function: Function, worker: str, run_id: str = "") -> str:
    """Send an event, and have a process begin it; the batch's id."""
    send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    batch_leases.set_worker_name(worker)
    assert batch_leases.begin(claim.batch_id, run_id or f"run-{claim.batch_id}") is not None
    return claim.batch_id


def started(run_id: str) -> DagsterRun:
    """A run that Dagster takes for started."""

    @job
    def nothing() -> None:
        pass

    with DagsterInstance.get() as instance:
        made = instance.create_run_for_job(nothing, run_id=run_id)
        instance.report_dagster_event(
            DagsterEvent(DagsterEventType.PIPELINE_START.value, job_name="nothing"), run_id=run_id
        )
    return made


def status_of(run_id: str) -> DagsterRunStatus:
    with DagsterInstance.get() as instance:
        found = instance.get_run_by_id(run_id)
    assert found is not None
    return found.status


def settle(batch: str, run_id: str) -> None:
    settlement.settle(batch, run_id, [Outcome(1, "succeeded")])


def invocations() -> list[Row]:
    with database.connection() as connection:
        return list(
            connection.execute(
                b"SELECT status, attempt, crashes FROM runyard.invocations ORDER BY id"
            ).fetchall()
        )


def silence() -> None:
    with database.connection() as connection:
        connection.execute("UPDATE runyard.batches SET heartbeat_at = now() - interval '4 seconds'")


@pytest.fixture(autouse=True)
def own_name() -> Iterator[None]:
    """Give this process its name back."""
    yield
    batch_leases.set_worker_name(socket.gethostname())


def test_a_dead_child_of_the_worker_loses_its_lease_at_once(function: Function) -> None:
    alive(workers.name())
    begun(function, f"{workers.name()}:{dead_pid()}")
    workers.reap_dead()
    assert invocations() == [{"status": "queued", "attempt": 1, "crashes": 1}]


def test_a_living_child_keeps_its_lease_though_it_is_silent(function: Function) -> None:
    alive(workers.name())
    begun(function, f"{workers.name()}:{os.getpid()}")
    silence()
    workers.reap_dead()
    assert invocations() == [{"status": "running", "attempt": 1, "crashes": 0}]


def test_what_a_killed_worker_of_this_place_held_is_freed_by_the_next_one_after_seconds(
    function: Function,
) -> None:
    alive("killed:1")
    begun(function, f"killed:1:{dead_pid()}")
    workers.reap_dead()
    assert invocations() == [{"status": "running", "attempt": 1, "crashes": 0}]
    silence()
    workers.reap_dead()
    assert invocations() == [{"status": "queued", "attempt": 1, "crashes": 1}]


def test_processes_of_another_place_are_not_judged_by_their_ids(function: Function) -> None:
    alive("elsewhere:1", place="another machine")
    begun(function, f"elsewhere:1:{dead_pid()}")
    silence()
    workers.reap_dead()
    assert invocations() == [{"status": "running", "attempt": 1, "crashes": 0}]


def test_a_worker_that_stops_hands_its_runs_back_without_an_attempt(function: Function) -> None:
    alive(workers.name())
    batch = begun(function, f"{workers.name()}:{os.getpid()}")
    workers.hand_back(workers.name())
    assert invocations() == [{"status": "queued", "attempt": 0, "crashes": 0}]
    with pytest.raises(LeaseLost):
        settlement.settle(batch, f"run-{batch}", [Outcome(1, "succeeded")])


def test_what_a_worker_hands_back_is_due_at_once_for_another_worker(function: Function) -> None:
    alive(workers.name())
    alive("another:1")
    begun(function, f"{workers.name()}:{os.getpid()}")
    workers.hand_back(workers.name())
    assert (seconds_until_due(function) or 0) <= 0


def test_without_another_worker_it_is_due_when_one_may_have_started(function: Function) -> None:
    alive(workers.name())
    begun(function, f"{workers.name()}:{os.getpid()}")
    workers.hand_back(workers.name())
    assert 3 < (seconds_until_due(function) or 0) <= 4


def test_a_worker_whose_last_run_has_ended_while_it_drains_is_no_other_worker(
    function: Function,
) -> None:
    alive(workers.name())
    alive("another:1", slots=0)
    begun(function, f"{workers.name()}:{os.getpid()}")
    workers.hand_back(workers.name())
    assert 3 < (seconds_until_due(function) or 0) <= 4


def test_handing_back_leaves_no_session_of_the_database(function: Function, store_url: str) -> None:
    alive(workers.name())
    begun(function, f"{workers.name()}:{os.getpid()}")
    gc.disable()  # which ends a session that was forgotten
    try:
        workers.hand_back(workers.name())
        database.close_pool()
        with psycopg.connect(store_url, autocommit=True) as connection:
            wait_for_the_end_of_others(connection, seconds=10)
    finally:
        gc.enable()


def test_a_worker_that_stops_hands_back_nothing_of_another(function: Function) -> None:
    alive(workers.name())
    begun(function, f"{workers.name()}0:1")
    workers.hand_back(workers.name())
    assert invocations() == [{"status": "running", "attempt": 1, "crashes": 0}]


def test_a_run_whose_process_died_behind_its_batch_is_ended_in_dagster(function: Function) -> None:
    alive(workers.name())
    run_id = started(make_new_run_id()).run_id
    settle(begun(function, f"{workers.name()}:{dead_pid()}", run_id), run_id)
    workers.reap_dead()
    assert status_of(run_id) == DagsterRunStatus.FAILURE
    assert invocations() == [{"status": "succeeded", "attempt": 1, "crashes": 0}]


def test_a_run_whose_whole_machine_went_behind_its_batch_is_ended_by_the_maintenance(
    function: Function,
) -> None:
    run_id = started(make_new_run_id()).run_id
    settle(begun(function, "gone:1:2", run_id), run_id)
    assert batch_leases.unended() == []
    with database.connection() as connection:
        connection.execute("UPDATE runyard.batches SET finished_at = now() - interval '1 hour'")
    with DagsterInstance.get() as instance:
        reaper.end_runs(instance, batch_leases.unended())
    assert status_of(run_id) == DagsterRunStatus.FAILURE
    assert batch_leases.unended() == []


def test_a_slot_is_busy_until_its_run_has_ended_not_only_its_batch(function: Function) -> None:
    with database.connection() as connection:
        fetch_all(
            connection,
            "heartbeat_worker",
            name=workers.name(),
            host="h",
            pid=1,
            slots=1,
            pid_namespace="p",
            remote=False,
        )
    batch = begun(function, f"{workers.name()}:1", "run-1")
    send("greet/requested")
    [waiting] = batch_claims.claim(function) or []
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.batches SET heartbeat_at = now() - interval '1 hour' WHERE id = %s",
            (waiting.batch_id,),
        )
    settle(batch, "run-1")
    assert batch_leases.overdue() == []
    batch_leases.mark_ended("run-1")
    assert [row["id"] for row in batch_leases.overdue()] == [waiting.batch_id]


@pytest.mark.usefixtures("empty")
def test_a_worker_without_slots_is_recorded() -> None:
    workers.send_heartbeat("draining:1", 0, remote=False)
    assert rows("SELECT slots FROM runyard.workers") == [{"slots": 0}]
