"""The daemon's loop over the sensors of functions: what is due is launched, oldest first."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from dagster import DagsterRun, DagsterRunStatus, QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus

from runyard import Event, send
from runyard.dagster_adapter import sensor_loop
from runyard.dagster_adapter.internals import (
    WorkspaceProcessContext,
    function_sensors,
    is_current,
)
from runyard.dagster_adapter.launcher import WarmRunLauncher
from runyard.dagster_adapter.reaper import reclaim_unlaunched
from runyard.dagster_adapter.sensor_loop import LONGEST_WAIT, SensorLoop, by_function
from runyard.dagster_adapter.tags import BATCH, FUNCTION
from runyard.engine.control import set_paused
from runyard.functions.flow_control import Concurrency, Flow
from runyard.functions.registry import Function
from runyard.processes.checks import checks
from runyard.settings import settings
from runyard.store.database import database_url
from tests.code_server import loaded_code
from tests.conftest import Publish, event
from tests.tables import rows

FUNCTIONS = [
    Function("bench_batched", "bench_batched", ("bench/batched",), max_batch=2),
    Function("bench_single", "bench_single", ("bench/single",), max_batch=1),
]
WORKER = (
    "INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace)"
    " VALUES ('here:1', 'here', 1, %s, 'none') RETURNING name"
)

Context = WorkspaceProcessContext


@pytest.fixture(scope="module")
def context(store_url: str) -> Iterator[Context]:
    """The code that the daemon has loaded from a code server."""
    with loaded_code("benchmarks.functions") as loaded:
        yield loaded


@pytest.fixture
def loop(empty: None, context: Context, publish_functions: Publish) -> SensorLoop:
    """A loop whose one worker has one slot, so that there is room for two runs."""
    publish_functions(*FUNCTIONS)
    rows(WORKER, 1)
    for run in context.instance.get_runs():
        context.instance.delete_run(run.run_id)
    rows("DELETE FROM job_ticks RETURNING id")
    for message in queue().glob("*.msg"):
        message.unlink()
    return SensorLoop(context)


def queue() -> Path:
    return settings().broker_dir / "queue"


def messages() -> list[str]:
    return [message.read_text() for message in queue().glob("*.msg")]


def launched(context: Context) -> list[DagsterRun]:
    """The runs, oldest first."""
    return list(reversed(context.instance.get_runs()))


def status_of(event_id: str) -> str:
    [invocation] = event(event_id)["invocations"]
    return str(invocation["status"])


def finish_oldest_run() -> None:
    rows(
        "UPDATE runyard.batches SET status = 'finished', finished_at = now() WHERE id = ("
        "SELECT id FROM runyard.batches WHERE status = 'claimed' ORDER BY id LIMIT 1) RETURNING id"
    )


def test_nothing_is_written_while_nothing_is_due(loop: SensorLoop, context: Context) -> None:
    assert loop.evaluate_due() == LONGEST_WAIT
    assert rows("SELECT id FROM job_ticks") == []


@pytest.mark.usefixtures("loop")
def test_each_round_and_each_tick_is_progress(context: Context) -> None:
    progress: list[None] = []
    send([Event("bench/batched"), Event("bench/single")])
    SensorLoop(context, lambda: progress.append(None)).evaluate_due()
    assert len(progress) == 3


def test_what_is_due_becomes_a_run_that_the_broker_has(loop: SensorLoop, context: Context) -> None:
    [event_id] = send("bench/single", {"n": 1})
    loop.evaluate_due()
    [run] = launched(context)
    assert (run.status, run.tags[FUNCTION]) == (DagsterRunStatus.STARTING, "bench_single")
    assert [run.run_id in message for message in messages()] == [True]
    assert status_of(event_id) == "claimed"


def test_a_run_is_queued_where_the_instance_has_a_queue_of_runs(
    loop: SensorLoop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = QueuedRunCoordinator()
    coordinator.register_instance(context.instance)
    monkeypatch.setattr(context.instance, "_run_coordinator", coordinator)
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    assert [run.status for run in launched(context)] == [DagsterRunStatus.QUEUED]


def test_a_tick_is_recorded_with_its_runs(loop: SensorLoop, context: Context) -> None:
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    [run] = launched(context)
    [sensor] = [each for each in function_sensors(context) if each.name == "bench_single_sensor"]
    [tick] = context.instance.get_ticks(sensor.origin_id, sensor.selector_id, limit=1)
    assert (tick.run_ids, tick.run_keys) == ([run.run_id], [run.tags[BATCH]])


def test_the_function_with_the_oldest_due_event_comes_first(
    loop: SensorLoop, context: Context
) -> None:
    send([Event("bench/single", {"n": n}) for n in range(3)])
    send("bench/batched", {"n": 1})
    rows(
        "UPDATE runyard.invocations SET due_at = due_at - interval '1 minute'"
        " WHERE function = 'bench_batched' RETURNING id"
    )
    loop.evaluate_due()
    assert [run.job_name for run in launched(context)] == ["bench_batched", "bench_single"]


def test_the_backlog_of_one_function_holds_up_no_other(loop: SensorLoop, context: Context) -> None:
    send([Event("bench/single", {"n": n}) for n in range(9)])
    rows("UPDATE runyard.invocations SET due_at = due_at - interval '1 minute' RETURNING id")
    loop.evaluate_due()
    send("bench/batched", {"n": 1})
    for _ in range(3):
        finish_oldest_run()
        loop.evaluate_due()
    assert "bench_batched" in [run.job_name for run in launched(context)]


def test_no_more_runs_are_launched_than_the_workers_can_soon_take(
    loop: SensorLoop, context: Context
) -> None:
    send([Event("bench/single", {"n": n}) for n in range(5)])
    while loop.evaluate_due() == 0.0:
        pass
    assert len(launched(context)) == 2


def test_the_wait_is_until_the_next_invocation_is_due(loop: SensorLoop) -> None:
    send("bench/single", {"n": 1}, ts=int(time.time() * 1000) + 2000)
    assert 1.0 < loop.evaluate_due() <= 2.0


def test_a_sensor_that_is_switched_off_launches_nothing_until_it_is_on_again(
    loop: SensorLoop, context: Context
) -> None:
    [sensor] = [each for each in function_sensors(context) if each.name == "bench_single_sensor"]
    context.instance.stop_sensor(sensor.origin_id, sensor.selector_id, sensor.loaded)
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    assert launched(context) == []
    context.instance.start_sensor(sensor.loaded)
    loop.evaluate_due()
    assert len(launched(context)) == 1


def test_a_paused_function_launches_nothing(loop: SensorLoop, context: Context) -> None:
    set_paused("bench_single", True)
    send("bench/single", {"n": 1})
    assert loop.evaluate_due() == LONGEST_WAIT
    assert launched(context) == []


def test_each_run_that_gets_a_process_of_its_own_is_launched_soon_after_its_claim(
    loop: SensorLoop,
) -> None:
    rows("DELETE FROM runyard.workers RETURNING name")
    send([Event("bench/single", {"n": n}) for n in range(4)])
    loop.evaluate_due()
    claims = rows("SELECT claimed_at, launched_at FROM runyard.batches ORDER BY id")
    pairs = itertools.pairwise(claims)
    assert [later["claimed_at"] > earlier["launched_at"] for earlier, later in pairs] == [True] * 3


@contextmanager
def refusing_broker(context: Context) -> Iterator[None]:
    """The broker's folder is gone."""
    assert context.instance.run_launcher  # which creates it
    elsewhere = queue().rename(queue().with_name("elsewhere"))
    try:
        yield
    finally:
        elsewhere.rename(queue())


def test_a_run_that_the_broker_refuses_fails_and_its_event_waits(
    loop: SensorLoop, context: Context
) -> None:
    with refusing_broker(context):
        [event_id] = send("bench/single", {"n": 1})
        loop.evaluate_due()
    [run] = launched(context)
    assert (run.status, status_of(event_id)) == (DagsterRunStatus.FAILURE, "queued")


def test_a_broker_that_refuses_one_run_of_a_tick_is_not_asked_for_the_others(
    loop: SensorLoop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    hand_over = WarmRunLauncher.hand_over

    def counted(self: WarmRunLauncher, run: DagsterRun) -> None:
        asked.append(run.run_id)
        hand_over(self, run)

    monkeypatch.setattr(WarmRunLauncher, "hand_over", counted)
    with refusing_broker(context):
        send([Event("bench/single", {"n": n}) for n in range(2)])
        loop.evaluate_due()
    assert [run.status for run in launched(context)] == [DagsterRunStatus.FAILURE] * 2
    assert len(asked) == 1


@pytest.fixture
def refused_failures() -> Iterator[Callable[[], None]]:
    """No failure of a run can be logged, until this is called."""
    check = "ADD CONSTRAINT refused CHECK (dagster_event_type <> 'PIPELINE_FAILURE') NOT VALID"
    with psycopg.connect(database_url(), autocommit=True) as connection:
        connection.execute(f"ALTER TABLE event_logs {check}")

        def accept() -> None:
            connection.execute("ALTER TABLE event_logs DROP CONSTRAINT IF EXISTS refused")

        yield accept
        accept()


def test_a_run_that_the_broker_refuses_ends_although_that_cannot_be_recorded_at_once(
    loop: SensorLoop, context: Context, refused_failures: Callable[[], None]
) -> None:
    with refusing_broker(context):
        [event_id] = send("bench/single", {"n": 1})
        loop.evaluate_due()
    refused_failures()
    reclaim_unlaunched(lambda: context.instance, seconds=0)
    [run] = launched(context)
    assert (run.status, status_of(event_id)) == (DagsterRunStatus.CANCELED, "queued")


def test_a_run_that_was_never_handed_over_gives_its_events_to_another(
    loop: SensorLoop, context: Context
) -> None:
    """As after a daemon that was killed between its commit and the broker."""
    [event_id] = send("bench/single", {"n": 1})
    loop.evaluate_due()
    rows("UPDATE runyard.batches SET launched_at = NULL RETURNING id")
    reclaim_unlaunched(lambda: context.instance, seconds=0)
    [run] = launched(context)
    assert (run.status, status_of(event_id)) == (DagsterRunStatus.CANCELED, "queued")


def test_a_run_that_was_handed_over_keeps_its_events(loop: SensorLoop, context: Context) -> None:
    [event_id] = send("bench/single", {"n": 1})
    loop.evaluate_due()
    reclaim_unlaunched(lambda: context.instance, seconds=0)
    [run] = launched(context)
    assert (run.status, status_of(event_id)) == (DagsterRunStatus.STARTING, "claimed")


def test_a_function_without_loaded_code_waits(loop: SensorLoop, context: Context) -> None:
    rows("UPDATE runyard.functions SET name = 'gone' WHERE name = 'bench_single' RETURNING name")
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    assert launched(context) == []


def test_loaded_code_is_current_while_its_server_answers(context: Context) -> None:
    assert is_current(context)


def test_loaded_code_is_not_current_once_another_server_answers(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    [entry] = context.create_request_context().get_code_location_entries().values()
    monkeypatch.setattr(entry.code_location, "_server_id", "that of an earlier server")
    assert not is_current(context)


def test_a_function_whose_job_is_not_in_the_code_holds_up_no_other(
    loop: SensorLoop, context: Context
) -> None:
    rows("UPDATE runyard.functions SET job = 'gone' WHERE name = 'bench_single' RETURNING name")
    send("bench/single", {"n": 1})
    send("bench/batched", {"n": 1})
    loop.evaluate_due()
    assert [run.job_name for run in launched(context)] == ["bench_batched"]
    assert rows("SELECT function FROM runyard.failed_launches") == [{"function": "bench_single"}]


@pytest.fixture
def refused_batches() -> Iterator[None]:
    """Batches of `bench_single` cannot be stored."""
    check = "ADD CONSTRAINT refused CHECK (function <> 'bench_single') NOT VALID"
    with psycopg.connect(database_url(), autocommit=True) as connection:
        connection.execute(f"ALTER TABLE runyard.batches {check}")
        yield
        connection.execute("ALTER TABLE runyard.batches DROP CONSTRAINT refused")


def test_a_function_whose_claim_fails_holds_up_no_other(
    loop: SensorLoop, context: Context, refused_batches: None
) -> None:
    send("bench/single", {"n": 1})
    send("bench/batched", {"n": 1})
    loop.evaluate_due()
    assert [run.job_name for run in launched(context)] == ["bench_batched"]


def test_of_one_function_in_two_code_locations_the_first_by_name_launches_and_the_other_is_told(
    context: Context,
) -> None:
    [first] = [each for each in function_sensors(context) if each.name == "bench_single_sensor"]
    second = replace(first, location=SimpleNamespace(name="later"))
    for loaded in ([first, second], [second, first]):
        chosen, [(sensor, error)] = by_function(loaded)
        assert chosen["bench_single"] is first
        assert sensor is second
        assert "in two code locations: benchmarks.functions, where" in str(error)


def test_doctor_says_that_a_function_is_in_two_code_locations(
    loop: SensorLoop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = [each for each in function_sensors(context) if each.name == "bench_single_sensor"]
    second = replace(first, location=SimpleNamespace(name="later"))
    monkeypatch.setattr(sensor_loop, "function_sensors", lambda _: [first, second])
    loop.evaluate_due()
    [check] = [check for check in checks() if check.name == "sensors"]
    assert not check.ok
    assert "benchmarks.functions, where its runs are launched, and later, where" in check.says


def test_doctor_finds_nothing_wrong_with_sensors_that_launch(
    loop: SensorLoop, context: Context
) -> None:
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    [check] = [check for check in checks() if check.name == "sensors"]
    assert (check.ok, check.says) == (True, "no tick has failed in the last two minutes")


def failed_ticks(context: Context, sensor_name: str) -> list[str]:
    """The errors that the Dagster UI shows for a sensor's ticks."""
    [sensor] = [each for each in function_sensors(context) if each.name == sensor_name]
    ticks = context.instance.get_ticks(
        sensor.origin_id, sensor.selector_id, statuses=[TickStatus.FAILURE]
    )
    return [tick.error.message for tick in ticks if tick.error is not None]


def test_a_claim_that_fails_is_a_failed_tick_once_a_minute(
    loop: SensorLoop, context: Context, refused_batches: None
) -> None:
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    loop._postponements.interrupt()  # as a notification does
    loop.evaluate_due()
    [message] = failed_ticks(context, "bench_single_sensor")
    assert message.startswith("CheckViolation: ")


def test_a_job_that_is_not_in_the_code_is_a_failed_tick(loop: SensorLoop, context: Context) -> None:
    rows("UPDATE runyard.functions SET job = 'gone' WHERE name = 'bench_single' RETURNING name")
    send("bench/single", {"n": 1})
    loop.evaluate_due()
    assert failed_ticks(context, "bench_single_sensor") == [
        "LookupError: the code location benchmarks.functions has no job gone"
    ]


def test_what_another_transaction_has_locked_is_looked_at_less_and_less_often(
    loop: SensorLoop,
) -> None:
    send("bench/single", {"n": 1})
    with psycopg.connect(database_url()) as connection:
        connection.execute("SELECT FROM runyard.invocations FOR UPDATE")
        waits = []
        for _ in range(8):
            waits.append(loop.evaluate_due())
            time.sleep(waits[-1])
    assert waits == sorted(waits)
    assert waits[0] < 0.1 < waits[-1]


def test_a_function_with_lanes_takes_its_turn_by_the_age_of_its_oldest_event(
    loop: SensorLoop, context: Context, publish_functions: Publish
) -> None:
    [batched, single] = FUNCTIONS
    laned = replace(batched, flow=Flow(concurrency=(Concurrency(5, key="data.user"),)))
    publish_functions(laned, single)
    send("bench/batched", {"user": 1})
    send("bench/single", {"n": 1})
    rows("UPDATE runyard.workers SET slots = 1 RETURNING name")
    rows(
        "UPDATE runyard.invocations SET due_at = due_at - interval '1 minute'"
        " WHERE function = 'bench_single' RETURNING id"
    )
    rows(
        "UPDATE runyard.invocations SET due_at = due_at - interval '2 minutes'"
        " WHERE function = 'bench_batched' RETURNING id"
    )
    loop.evaluate_due()
    assert [run.job_name for run in launched(context)] == ["bench_batched", "bench_single"]
