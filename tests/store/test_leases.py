"""Claim, begin, checkpoint, settle and release: what a lease guarantees."""

import threading
import time
from collections.abc import Collection
from dataclasses import replace

import psycopg
import pytest

from runyard import Event, send
from runyard.engine import (
    batch_claims,
    batch_leases,
    checkpoints,
    chunked_writes,
    housekeeping,
    settlement,
    wait_registration,
)
from runyard.engine.due import seconds_until_due
from runyard.engine.settlement import Outcome
from runyard.errors import LeaseLost
from runyard.functions import registry
from runyard.functions.flow_control import Concurrency, Flow, Timeouts
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.store import database
from runyard.store.queries import fetch_all
from tests.conftest import Publish
from tests.tables import rows


def worker(slots: int) -> None:
    with database.connection() as connection:
        fetch_all(
            connection,
            "heartbeat_worker",
            name="w",
            host="h",
            pid=1,
            slots=slots,
            pid_namespace="p",
            remote=False,
        )


def claim_ids(function: Function) -> list[str]:
    return [claim.batch_id for claim in batch_claims.claim(function) or []]


def silence(batch: str) -> None:
    """Date the last heartbeat of a batch back by an hour."""
    rows(
        "UPDATE runyard.batches SET heartbeat_at = now() - interval '1 hour' WHERE id = %s"
        " RETURNING id",
        batch,
    )


def kept(
    invocation: int, output: str | None = "1", error: str | None = None
) -> tuple[int, int, str | None, str | None, float, float]:
    return (invocation, 1, output, error, 1.0, 2.0)


def test_due_invocations_come_in_batches_by_priority_then_age(function: Function) -> None:
    ids = send([Event("greet/requested", {"n": n}) for n in range(15)])
    rows("UPDATE runyard.invocations SET priority = 5 WHERE event_id = %s RETURNING id", ids[14])
    rows(
        "UPDATE runyard.invocations SET due_at = now() + interval '1 hour', priority = 9"
        " WHERE event_id = %s RETURNING id",
        ids[3],
    )
    claims = batch_claims.claim(function)
    assert claims is not None
    assert [claim.size for claim in claims] == [10, 4]
    begun = batch_leases.begin(claims[0].batch_id, "run-1")
    assert begun is not None
    assert [row["event_id"] for row in begun[1]] == [
        ids[14],
        *[ids[n] for n in (0, 1, 2, 4, 5, 6, 7, 8, 9)],
    ]
    assert batch_claims.claim(function) == []
    assert seconds_until_due(function) == pytest.approx(3600, abs=5)


def test_no_more_batches_wait_than_the_workers_can_soon_take(function: Function) -> None:
    worker(slots=3)
    send([Event("greet/requested") for _ in range(100)])
    assert len(claim_ids(function)) == 6
    assert batch_claims.claim(function) is None


def test_what_was_claimed_for_long_enough_is_launched_before_more_is_claimed(
    function: Function,
) -> None:
    send([Event("greet/requested") for _ in range(30)])
    with database.connection() as connection:
        claims = batch_claims.claim_some(connection, function, 3, seconds=0.0)
    assert [claim.size for claim in claims] == [10]


def test_sensors_at_once_never_claim_an_invocation_twice(function: Function) -> None:
    worker(slots=200)
    send([Event("greet/requested") for _ in range(400)])
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(claim_ids(function))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while more := claim_ids(function):
        found.extend(more)
    claimed = [
        row["invocation"]
        for row in rows("SELECT unnest(invocations) AS invocation FROM runyard.batches")
    ]
    assert sorted(claimed) == list(range(1, 401))


def test_a_batch_belongs_to_one_run(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    assert batch_leases.begin(batch, "run-1") is not None
    assert batch_leases.begin(batch, "run-2") is None
    again = batch_leases.begin(batch, "run-1", fresh=False)
    assert again is not None
    assert again[1][0]["attempt"] == 1


def test_a_late_worker_keeps_and_settles_nothing(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    silence(batch)
    assert [row["id"] for row in batch_leases.overdue()] == [batch]
    assert batch_leases.release(batch, "running", "queued", attempts=3, crashed=True) == 1
    with pytest.raises(LeaseLost):
        checkpoints.save_steps(batch, "run-1", "a", [kept(1)])
    with pytest.raises(LeaseLost):
        settlement.settle(batch, "run-1", [Outcome(1, "succeeded")])
    assert rows("SELECT FROM runyard.steps") == []
    assert rows("SELECT status, crashes FROM runyard.invocations") == [
        {"status": "queued", "crashes": 1}
    ]


def test_a_worker_that_came_back_in_time_keeps_its_lease(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    assert batch_leases.overdue() == []
    assert batch_leases.release(batch, "running", "queued", attempts=3) is None


def test_kept_outputs_are_never_replaced_and_errors_are(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    checkpoints.save_steps(batch, "run-1", "a", [kept(1, None, '{"type": "E", "message": "m"}')])
    checkpoints.save_steps(batch, "run-1", "a", [kept(1, "2")])
    checkpoints.save_steps(batch, "run-1", "a", [kept(1, "3")])
    assert rows("SELECT output, error FROM runyard.steps") == [{"output": 2, "error": None}]


def begun(function: Function, size: int) -> str:
    """A batch of this many invocations, from id 1 on, that the run `run-1` has begun."""
    send([Event("greet/requested") for _ in range(size)])
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    return batch


UNFIT = ['"\\u0000"', '"\\ud83d"', "1e999999", "no JSON", '"a\0b"', '"\ud83d"']


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_result_that_the_database_rejects_is_reported_and_the_others_are_saved(
    function: Function, unfit: str
) -> None:
    batch = begun(function, 5)
    refused = checkpoints.save_steps(
        batch, "run-1", "a", [kept(n, unfit if n in (2, 5) else "1") for n in range(1, 6)]
    )
    assert sorted(refused) == [2, 5]
    assert all(refused.values())
    assert rows("SELECT invocation_id AS id FROM runyard.steps ORDER BY 1") == [
        {"id": 1},
        {"id": 3},
        {"id": 4},
    ]


def test_no_event_of_a_refused_result_is_sent_and_all_of_the_others_are(function: Function) -> None:
    batch = begun(function, 4)
    events = {n: f'{{"ulid": "{n}", "name": "told/one"}}' for n in range(1, 5)}
    checkpoints.save_steps(
        batch,
        "run-1",
        "a",
        [kept(n, "no JSON" if n == 3 else "1") for n in range(1, 5)],
        events=events,
    )
    assert [
        row["id"]
        for row in rows("SELECT id FROM runyard.events WHERE name = 'told/one' ORDER BY id")
    ] == ["1", "2", "4"]


def test_an_error_saved_twice_after_a_lost_response_counts_once(function: Function) -> None:
    batch = begun(function, 1)
    for _ in range(2):
        checkpoints.save_steps(
            batch, "run-1", "a", [kept(1, None, '{"type": "E", "message": "m"}')]
        )
    assert rows("SELECT tries FROM runyard.steps") == [{"tries": 1}]


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_outcome_that_the_database_refuses_is_a_failure_and_the_others_are_written(
    function: Function, unfit: str
) -> None:
    batch = begun(function, 4)
    settlement.settle(
        batch,
        "run-1",
        [Outcome(n, "succeeded", output=unfit if n == 3 else "5") for n in range(1, 5)],
    )
    assert [
        row["status"] for row in rows("SELECT status FROM runyard.invocations ORDER BY id")
    ] == ["succeeded", "succeeded", "failed", "succeeded"]
    [failed] = rows(
        "SELECT error->>'message' AS message FROM runyard.invocations WHERE status = 'failed'"
    )
    assert failed["message"].startswith("the database cannot store the outcome (succeeded): ")
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_what_is_too_large_for_a_statement_is_written_in_several_and_ends_once(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = begun(function, 5)
    monkeypatch.setattr(chunked_writes, "_MAX_CHARACTERS", 7)
    assert (
        checkpoints.save_steps(batch, "run-1", "a", [kept(n, "12345") for n in range(1, 6)]) == {}
    )
    settlement.settle(
        batch, "run-1", [Outcome(n, "succeeded", output="12345") for n in range(1, 6)]
    )
    assert rows("SELECT count(*) AS steps FROM runyard.steps") == [{"steps": 5}]
    assert rows(
        "SELECT output, count(*) AS invocations FROM runyard.invocations WHERE status = 'succeeded'"
        " GROUP BY 1"
    ) == [{"output": 12345, "invocations": 5}]
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_of_what_is_written_in_several_statements_nothing_is_written_when_the_lease_is_gone(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = begun(function, 3)
    monkeypatch.setattr(chunked_writes, "_MAX_CHARACTERS", 1)
    batch_leases.release(batch, "running", "queued", attempts=3, force=True)
    with pytest.raises(LeaseLost):
        settlement.settle(
            batch, "run-1", [Outcome(n, "succeeded", output="12345") for n in range(1, 4)]
        )
    assert rows("SELECT DISTINCT status FROM runyard.invocations") == [{"status": "queued"}]


def test_a_lost_batch_resumes_with_its_completed_steps(function: Function) -> None:
    send([Event("greet/requested"), Event("greet/requested")])
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    checkpoints.save_steps(batch, "run-1", "a", [kept(2)])
    silence(batch)
    batch_leases.release(batch, "running", "queued", attempts=3, crashed=True)
    [second] = claim_ids(function)
    begun = batch_leases.begin(second, "run-2")
    assert begun is not None
    # A run of two was lost: which one caused it is unknown, so neither loses an attempt.
    assert [row["attempt"] for row in begun[1]] == [1, 1]
    assert [step["invocation_id"] for step in begun[2]] == [2]


def crash(count: int) -> None:
    """Mark the first invocations as having lost two workers, the second time each alone."""
    rows(
        "UPDATE runyard.invocations SET crashes = 2, suspect = 'isolated', started_at = now()"
        " WHERE id <= %s RETURNING id",
        count,
    )


def sizes(function: Function) -> list[int]:
    return [claim.size for claim in batch_claims.claim(function) or []]


def do_all(function: Function) -> list[list[int]]:
    """Claim and settle until nothing is left; return the ids of each batch."""
    done: list[list[int]] = []
    while claims := batch_claims.claim(function):
        for claim in claims:
            begun = batch_leases.begin(claim.batch_id, f"run-{len(done)}")
            assert begun is not None
            done.append(sorted(row["id"] for row in begun[1]))
            settlement.settle(
                claim.batch_id,
                f"run-{len(done) - 1}",
                [Outcome(one, "succeeded") for one in done[-1]],
            )
    return done


def test_an_invocation_that_was_alone_with_a_lost_worker_runs_alone(function: Function) -> None:
    worker(slots=10)
    send([Event("greet/requested", {"n": n}) for n in range(4)])
    crash(2)
    assert sorted(do_all(function)) == [[1], [2], [3, 4]]


PLAIN = Flow()
LANES = Flow(concurrency=(Concurrency(500, key="data.k"),))


def greet_with(publish: Publish, flow: Flow, max_batch: int) -> Function:
    """The function `greet` with this flow control, published."""
    function = Function(
        "greet",
        "greet_job",
        ("greet/requested",),
        max_batch=max_batch,
        retry=Retry(attempts=3),
        flow=flow,
    )
    publish(function)
    return function


@pytest.mark.parametrize("flow", [PLAIN, LANES], ids=["plain", "lanes"])
def test_isolated_invocations_block_no_others_and_get_their_turn(
    publish_functions: Publish, flow: Flow
) -> None:
    made = greet_with(publish_functions, flow, 100)
    worker(slots=1)
    send([Event("greet/requested", {"k": n % 2}) for n in range(599)])
    if flow.uses_lanes:
        rows("UPDATE runyard.invocations SET lane = NULL RETURNING id")
    crash(99)
    batches = do_all(made)
    alone = [batch for batch in batches if batch[0] <= 99]
    assert [len(batch) for batch in alone] == [1] * 99
    assert sorted(one for batch in batches for one in batch) == list(range(1, 600))
    # They take at most every second run; the others go in batches in between.
    last = max(number for number, batch in enumerate(batches) if batch[-1] > 99)
    assert last <= 30
    assert sum(batch[0] <= 99 for batch in batches[: last + 1]) >= 4


def test_an_isolated_invocation_waits_until_the_previous_one_has_ended(function: Function) -> None:
    worker(slots=10)
    send([Event("greet/requested") for _ in range(3)])
    crash(2)
    claims = batch_claims.claim(function) or []
    assert [(claim.size, claim.alone) for claim in claims] == [(1, True), (1, False)]
    assert seconds_until_due(function) is None
    batch_leases.begin(claims[0].batch_id, "run-1")
    assert batch_claims.claim(function) == []
    settlement.settle(claims[0].batch_id, "run-1", [Outcome(1, "failed")])
    assert sizes(function) == [1]


def lose(batch: str) -> None:
    batch_leases.release(
        batch,
        "running",
        "queued",
        attempts=3,
        crashed=True,
        force=True,
        error='{"type": "WorkerLost", "message": "lost"}',
    )


def run_all(function: Function, poisons: Collection[int]) -> list[list[int]]:
    """Claim and run until nothing is left; return the ids of each run.

    An invocation among `poisons` takes its worker down.
    """
    runs: list[list[int]] = []
    while claims := batch_claims.claim(function):
        for claim in claims:
            begun = batch_leases.begin(claim.batch_id, f"run-{len(runs)}")
            assert begun is not None
            runs.append(sorted(row["id"] for row in begun[1]))
            assert len(runs) < 500
            if any(invocation in poisons for invocation in runs[-1]):
                lose(claim.batch_id)
            else:
                settlement.settle(
                    claim.batch_id,
                    f"run-{len(runs) - 1}",
                    [Outcome(invocation, "succeeded") for invocation in runs[-1]],
                )
    return runs


def statuses() -> dict[int, str]:
    return {
        row["id"]: row["status"]
        for row in rows("SELECT id, status FROM runyard.invocations ORDER BY id")
    }


@pytest.mark.parametrize("flow", [PLAIN, LANES], ids=["plain", "lanes"])
@pytest.mark.parametrize("poisons", [[1], [37], [64], [100]], ids=str)
def test_one_of_a_hundred_that_takes_its_workers_with_it_is_found_by_halves(
    publish_functions: Publish, flow: Flow, poisons: list[int]
) -> None:
    made = greet_with(publish_functions, flow, 100)
    worker(slots=1)
    send([Event("greet/requested", {"k": n % 2}) for n in range(100)])
    runs = run_all(made, poisons)
    # Two runs of all, at most seven halves, two runs of those outside the search, and three
    # attempts of the culprit alone.
    assert len(runs) <= 2 + 7 + 2 + 3
    assert runs.count(poisons) == 3
    assert statuses() == {n: "failed" if n in poisons else "succeeded" for n in range(1, 101)}


@pytest.mark.parametrize("flow", [PLAIN, LANES], ids=["plain", "lanes"])
@pytest.mark.parametrize("poisons", [[1, 2, 3], [10, 50, 90], [98, 99, 100]], ids=str)
def test_three_of_a_hundred_are_found_by_halves_and_harm_no_other(
    publish_functions: Publish, flow: Flow, poisons: list[int]
) -> None:
    made = greet_with(publish_functions, flow, 100)
    worker(slots=1)
    send([Event("greet/requested", {"k": n % 2}) for n in range(100)])
    runs = run_all(made, poisons)
    assert len(runs) <= 2 + 3 * (7 + 2 + 3)
    assert statuses() == {n: "failed" if n in poisons else "succeeded" for n in range(1, 101)}


@pytest.mark.parametrize("flow", [PLAIN, LANES], ids=["plain", "lanes"])
def test_a_hundred_that_all_take_their_workers_with_them_fail_and_the_others_go_on(
    publish_functions: Publish, flow: Flow
) -> None:
    made = greet_with(publish_functions, flow, 10)
    worker(slots=1)
    send([Event("greet/requested", {"k": n % 2}) for n in range(30)])
    run_all(made, range(1, 11))
    assert statuses() == {n: "failed" if n <= 10 else "succeeded" for n in range(1, 31)}


def test_a_crash_of_several_costs_none_an_attempt_and_the_culprit_has_the_reason(
    function: Function,
) -> None:
    worker(slots=1)
    send([Event("greet/requested") for _ in range(8)])
    run_all(function, [8])
    found = rows(
        "SELECT attempt, count(*) AS invocations FROM runyard.invocations"
        " WHERE status = 'succeeded' GROUP BY 1"
    )
    assert found == [{"attempt": 1, "invocations": 7}]
    [failed] = rows(
        "SELECT attempt, error->>'type' AS type, error->>'message' AS message"
        " FROM runyard.invocations WHERE status = 'failed'"
    )
    assert (failed["attempt"], failed["type"]) == (3, "WorkerLost")
    assert (
        "workers were lost while it ran, the last one with nothing else in the run"
        in failed["message"]
    )


def test_those_that_lost_two_workers_by_an_accident_go_on_together_when_the_search_finds_none(
    function: Function,
) -> None:
    worker(slots=1)
    send([Event("greet/requested") for _ in range(10)])
    for number in range(2):
        [batch] = claim_ids(function)
        batch_leases.begin(batch, f"run-{number}")
        lose(batch)
    assert [len(batch) for batch in run_all(function, [])] == [5, 3, 1, 1]
    assert set(statuses().values()) == {"succeeded"}
    assert rows("SELECT DISTINCT crashes, suspect FROM runyard.invocations") == [
        {"crashes": 0, "suspect": None}
    ]


def test_later_invocations_are_neither_blocked_by_a_search_nor_included_in_it(
    function: Function,
) -> None:
    worker(slots=2)
    send([Event("greet/requested") for _ in range(10)])
    for number in range(2):
        [batch] = claim_ids(function)
        batch_leases.begin(batch, f"run-{number}")
        lose(batch)
    send([Event("greet/requested") for _ in range(10)])
    claims = batch_claims.claim(function) or []
    assert [(claim.size, claim.alone) for claim in claims] == [(5, True), (10, False)]
    begun = [batch_leases.begin(claim.batch_id, claim.batch_id) for claim in claims]
    assert [[row["id"] for row in one[1]] for one in begun if one is not None] == [
        [*range(1, 6)],
        [*range(11, 21)],
    ]
    lose(claims[0].batch_id)
    assert rows(
        "SELECT array_agg(id ORDER BY id) AS ids FROM runyard.invocations"
        " WHERE suspect = 'bisecting'"
    ) == [{"ids": [*range(1, 6)]}]


def test_a_crash_in_the_last_attempt_is_final(function: Function) -> None:
    send("greet/requested")
    rows("UPDATE runyard.invocations SET attempt = 2 RETURNING id")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    silence(batch)
    batch_leases.release(
        batch, "running", "queued", attempts=3, crashed=True, error='{"type": "WorkerLost"}'
    )
    [row] = rows(
        "SELECT status, error->>'type' AS type, finished_at IS NOT NULL AS finished"
        " FROM runyard.invocations"
    )
    assert row == {"status": "failed", "type": "WorkerLost", "finished": True}


def test_a_batch_that_waits_while_all_slots_are_busy_is_left_alone(function: Function) -> None:
    worker(slots=1)
    send([Event("greet/requested") for _ in range(20)])
    busy, waiting = claim_ids(function)
    batch_leases.begin(busy, "run-1")
    silence(waiting)
    assert batch_leases.overdue() == []
    settlement.settle(busy, "run-1", [])
    batch_leases.mark_ended("run-1")
    assert [row["id"] for row in batch_leases.overdue()] == [waiting]


def test_without_any_worker_a_claim_that_never_began_is_taken_back(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    silence(batch)
    assert [row["id"] for row in batch_leases.overdue()] == [batch]
    assert batch_leases.release(batch, "claimed", "queued", attempts=3) == 1
    assert rows("SELECT status, attempt, crashes FROM runyard.invocations") == [
        {"status": "queued", "attempt": 0, "crashes": 0}
    ]


BROKER_AWAY = '{"type": "LaunchFailed", "message": "its run could not be launched (no broker)"}'


def fail_to_launch(batch: str) -> None:
    assert (
        batch_leases.release(
            batch, "claimed", "queued", attempts=3, failed=True, force=True, error=BROKER_AWAY
        )
        is not None
    )


def pass_hold() -> None:
    """End the time for which a function is held back."""
    rows("UPDATE runyard.failed_launches SET until = now() RETURNING function")


def held_for(function: Function) -> float:
    seconds = seconds_until_due(function)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("flow", [PLAIN, LANES], ids=["plain", "lanes"])
def test_a_failed_launch_costs_no_attempt_and_launches_back_off(
    publish_functions: Publish, flow: Flow
) -> None:
    made = greet_with(publish_functions, flow, 10)
    send([Event("greet/requested", {"k": 1}) for _ in range(3)])
    before = rows("SELECT id, due_at FROM runyard.invocations ORDER BY id")
    waits: list[float] = []
    for _ in range(10):
        [batch] = claim_ids(made)
        fail_to_launch(batch)
        assert batch_claims.claim(made) == []
        waits.append(held_for(made))
        pass_hold()
    assert [round(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]
    assert rows("SELECT DISTINCT status, attempt, crashes FROM runyard.invocations") == [
        {"status": "queued", "attempt": 0, "crashes": 0}
    ]
    assert rows("SELECT id, due_at FROM runyard.invocations ORDER BY id") == before
    assert rows("SELECT DISTINCT error->>'message' AS why FROM runyard.invocations") == [
        {"why": "its run could not be launched (no broker)"}
    ]


def test_what_could_not_be_launched_keeps_its_place_before_what_came_later(
    function: Function,
) -> None:
    first = send([Event("greet/requested") for _ in range(10)])
    [batch, *_] = claim_ids(function)
    send([Event("greet/requested") for _ in range(5)])
    fail_to_launch(batch)
    pass_hold()
    [again, *_] = claim_ids(function)
    begun = batch_leases.begin(again, "run-1")
    assert begun is not None
    assert [row["event_id"] for row in begun[1]] == first


def test_after_a_launch_failed_one_batch_is_tried_and_all_go_when_it_begins(
    function: Function,
) -> None:
    worker(slots=10)
    send([Event("greet/requested") for _ in range(40)])
    for batch in claim_ids(function):
        fail_to_launch(batch)
    assert rows("SELECT failures FROM runyard.failed_launches") == [{"failures": 1}]
    pass_hold()
    [trial] = claim_ids(function)
    assert batch_claims.claim(function) == []
    assert seconds_until_due(function) is None
    batch_leases.begin(trial, "run-1")
    assert rows("SELECT FROM runyard.failed_launches") == []
    assert sizes(function) == [10, 10, 10]


def test_failing_launches_of_one_function_do_not_delay_another(
    function: Function, publish_functions: Publish
) -> None:
    other = Function("other", "other_job", ("other/requested",))
    publish_functions(function, other)
    send([Event("greet/requested"), Event("other/requested")])
    [batch] = claim_ids(function)
    fail_to_launch(batch)
    assert batch_claims.claim(function) == []
    assert sizes(other) == [1]


def test_a_claim_that_was_never_launched_counts_as_waiting_for_seconds_only(
    function: Function,
) -> None:
    worker(slots=1)
    send([Event("greet/requested") for _ in range(50)])
    lost = claim_ids(function)
    assert batch_claims.claim(function) is None
    late = batch_claims.LAUNCH_SECONDS + 1
    rows(f"UPDATE runyard.batches SET claimed_at = now() - interval '{late} seconds' RETURNING id")
    assert sizes(function) == [10, 10]
    ids = [row["id"] for row in batch_leases.unlaunched(batch_claims.LAUNCH_SECONDS)]
    assert sorted(ids) == sorted(lost)


def test_a_run_is_not_launched_for_a_batch_that_was_taken_back(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    assert batch_leases.mark_launching(batch)
    assert batch_leases.unlaunched(0) == []
    fail_to_launch(batch)
    assert not batch_leases.mark_launching(batch)


def test_a_replay_makes_new_invocations_of_the_same_events(function: Function) -> None:
    [event_id] = send("greet/requested")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    settlement.settle(batch, "run-1", [Outcome(1, "succeeded", output="5")])
    again = batch_leases.begin(batch_claims.claim_replay(function, batch) or "", "run-2")
    assert again is not None
    assert [(row["event_id"], row["attempt"]) for row in again[1]] == [(event_id, 1)]
    assert rows("SELECT replay_of FROM runyard.invocations ORDER BY id") == [
        {"replay_of": None},
        {"replay_of": 1},
    ]


def test_what_succeeded_is_not_taken_up_again(function: Function) -> None:
    send([Event("greet/requested"), Event("greet/requested")])
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    settlement.settle(batch, "run-1", [Outcome(1, "succeeded"), Outcome(2, "failed", error="{}")])
    resumed = batch_leases.begin(
        batch_claims.claim_unfinished(function, batch) or "", "run-2", fresh=False
    )
    assert resumed is not None
    assert [row["id"] for row in resumed[1]] == [2]
    assert (
        batch_leases.begin(
            batch_claims.claim_unfinished(function, batch) or "", "run-3", fresh=False
        )
        is None
    )


def test_a_cancel_reaches_the_heartbeat(function: Function) -> None:
    send("greet/requested")
    [batch] = claim_ids(function)
    batch_leases.begin(batch, "run-1")
    assert batch_leases.request_cancel(None, "run-1") == {
        "id": batch,
        "function": "greet",
        "status": "running",
        "cancelled": True,
    }
    with database.connection() as connection:
        assert fetch_all(connection, "heartbeat", batches=[batch]) == [
            {"id": batch, "begun": True, "stopped": True, "cancelled": []}
        ]


@pytest.mark.parametrize("shape", [[["data", "n"]], []])
def test_many_waits_and_many_events_since_the_run_began_are_matched_by_equality(
    function: Function, shape: list[list[str]]
) -> None:
    made = replace(function, max_batch=500)
    send([Event("greet/requested", {"n": n}) for n in range(200)])
    [claim] = batch_claims.claim(made) or []
    begun = batch_leases.begin(claim.batch_id, "run-1")
    assert begun is not None
    sent = [
        one
        for _ in range(2)
        for one in send([Event("answer/given", {"n": n}) for n in range(1000)])
    ]
    asked = [
        {
            "invocation": row["id"],
            "kind": "event",
            "event": "answer/given",
            "seconds": 60,
            "match_paths": shape,
            "match_values": [row["data"]["n"]] if shape else [],
        }
        for row in begun[1]
    ]
    began = time.monotonic()
    waits = wait_registration.register_waits(claim.batch_id, "run-1", "answer", asked)
    # Matching each wait with each event took half a minute.
    assert time.monotonic() - began < 15
    numbers = {row["id"]: row["data"]["n"] for row in begun[1]}
    assert {row["invocation_id"]: row["result"]["id"] for row in waits} == {
        invocation: sent[n if shape else 0] for invocation, n in numbers.items()
    }


def test_the_server_compiles_no_function_of_the_engine(function: Function) -> None:
    found = rows(
        "SELECT proname FROM pg_proc JOIN pg_language ON pg_language.oid = prolang"
        " WHERE pronamespace = 'runyard'::regnamespace AND lanname = 'plpgsql'"
        " AND prosrc ~ 'runyard[.](invocations|waits|events)'"
        " AND NOT coalesce(proconfig @> '{jit=off}', false)"
    )
    assert found == []


def test_the_time_to_begin_counts_from_the_commit_of_the_event(
    function: Function,
    other_connection: psycopg.Connection[tuple[object, ...]],
    publish_functions: Publish,
) -> None:
    publish_functions(replace(function, flow=Flow(timeouts=Timeouts(start=2))))
    other_connection.execute("SELECT runyard.send('greet/requested')")
    # The transaction lasts longer than the time to begin.
    other_connection.execute("SELECT pg_sleep_until(now() + interval '2.5 seconds')")
    other_connection.commit()
    assert housekeeping.expire() == 0


def test_a_process_without_the_code_knows_when_a_function_is_retried(function: Function) -> None:
    with registry.use():
        assert registry.retry_of(function.name) == function.retry
