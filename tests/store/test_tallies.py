"""The counters behind `/metrics`: each thing that happens counts once, and none is forgotten."""

import math
import threading
from datetime import UTC, datetime, timedelta

import psycopg

from runyard import Event, send
from runyard.engine import (
    batch_claims,
    batch_leases,
    checkpoints,
    housekeeping,
    settlement,
    tallies,
)
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from tests.tables import rows

GREET = ("greet",)


def begun(function: Function, run: str = "run-1") -> str:
    """The id of a batch that a run has begun."""
    [claim, *_] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, run)
    return claim.batch_id


def ended(function: Function, *outcomes: str) -> None:
    """Send an event for each outcome, and end its invocation so, in one batch."""
    send([Event("greet/requested") for _ in outcomes])
    batch = begun(function)
    [held] = rows("SELECT invocations FROM runyard.batches WHERE id = %s", batch)
    settlement.settle(
        batch,
        "run-1",
        [Outcome(id, status) for id, status in zip(held["invocations"], outcomes, strict=True)],
    )


def test_events_are_counted_by_the_names_that_functions_are_for(function: Function) -> None:
    send([Event("greet/requested"), Event("greet/requested"), Event("nobody/listens")])
    assert tallies.totals().received == {("greet/requested",): 2, ("other",): 1}


def test_no_more_than_a_number_of_event_names_have_counters(function: Function) -> None:
    rows(
        "INSERT INTO runyard.triggers (function, event)"
        " SELECT 'greet', 'greet/' || n FROM generate_series(1, 300) AS n RETURNING event"
    )
    send([Event(f"greet/{n}") for n in range(1, 301)])
    received = tallies.totals().received
    assert len(received) == tallies.MOST_EVENT_NAMES + 1
    assert sum(received.values()) == 300


def test_a_name_that_has_a_counter_keeps_it_when_no_function_is_for_it(function: Function) -> None:
    send("greet/requested")
    tallies.fold()
    rows("DELETE FROM runyard.triggers RETURNING event")
    send("greet/requested")
    assert tallies.totals().received == {("greet/requested",): 2}


def test_events_of_a_transaction_that_is_rolled_back_do_not_count(
    function: Function, other_connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    other_connection.execute("SELECT runyard.send('greet/requested')")
    other_connection.rollback()
    assert tallies.totals().received == {}


def test_a_sender_whose_transaction_is_open_keeps_nobody_from_folding(
    function: Function, other_connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    send("greet/requested")
    other_connection.execute("SELECT runyard.send('greet/requested')")
    assert tallies.totals().received == {("greet/requested",): 1}
    other_connection.commit()
    assert tallies.totals().received == {("greet/requested",): 2}


def test_ends_are_counted_by_function_and_outcome(function: Function) -> None:
    ended(function, "succeeded", "succeeded", "failed")
    ended(function, "succeeded")
    assert tallies.totals().ended == {("greet", "succeeded"): 3, ("greet", "failed"): 1}


def test_a_start_counts_once_and_its_wait_is_that_since_it_was_due(function: Function) -> None:
    ended(function, "succeeded")
    totals = tallies.totals()
    assert totals.started == {GREET: 1}
    assert totals.waiting[GREET].buckets[-1] == (math.inf, 1)


def test_a_further_attempt_is_no_further_start_but_has_a_wait_of_its_own(
    function: Function,
) -> None:
    send("greet/requested")
    settlement.settle(begun(function), "run-1", [Outcome(1, "queued")])
    settlement.settle(begun(function, "run-2"), "run-2", [Outcome(1, "succeeded")])
    totals = tallies.totals()
    assert totals.started == {GREET: 1}
    assert totals.ended == {("greet", "succeeded"): 1}
    assert totals.waiting[GREET].buckets[-1] == (math.inf, 2)


def test_a_run_that_begins_its_batch_again_does_not_count_twice(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    batch_leases.begin(batch, "run-1", fresh=False)
    assert tallies.totals().started == {GREET: 1}


def test_what_never_began_ends_without_a_time(function: Function) -> None:
    send("greet/requested")
    rows("SELECT runyard.cancel_v1(ARRAY[1::bigint], 'asked')")
    totals = tallies.totals()
    assert totals.ended == {("greet", "cancelled"): 1}
    assert totals.running == {}


def test_a_dismissed_failure_does_not_end_again(function: Function) -> None:
    ended(function, "failed")
    rows("SELECT runyard.dismiss(1)")
    assert tallies.totals().ended == {("greet", "failed"): 1}


def test_the_time_of_an_invocation_is_that_since_its_first_start(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    rows(
        "UPDATE runyard.invocations SET started_at = started_at - interval '40 seconds'"
        " RETURNING id"
    )
    settlement.settle(batch, "run-1", [Outcome(1, "succeeded")])
    buckets = dict(tallies.totals().running[GREET].buckets)
    assert buckets[30] == 0
    assert buckets[60] == 1


def test_attempts_of_steps_are_counted_with_their_outcome_and_their_time(
    function: Function,
) -> None:
    send("greet/requested")
    batch = begun(function)
    checkpoints.save_steps(batch, "run-1", "a", [(1, 1, None, '{"message": "m"}', 1.0, 1.2)])
    checkpoints.save_steps(batch, "run-1", "a", [(1, 2, "1", None, 2.0, 6.0)])
    totals = tallies.totals()
    assert totals.attempts == {("greet", "failed"): 1, ("greet", "succeeded"): 1}
    assert totals.stepping[GREET].buckets[3:8] == [(0.25, 1), (0.5, 1), (1, 1), (2.5, 1), (5, 2)]
    assert math.isclose(totals.stepping[GREET].seconds, 4.2, rel_tol=1e-6)


def test_a_result_that_is_written_again_does_not_count_again(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    for _ in range(2):
        checkpoints.save_steps(batch, "run-1", "a", [(1, 1, "1", None, 1.0, 2.0)])
    assert tallies.totals().attempts == {("greet", "succeeded"): 1}


def test_a_lease_that_is_taken_from_a_lost_worker_counts(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    batch_leases.release(batch, "running", "queued", attempts=3, crashed=True, force=True)
    assert tallies.totals().lost == {GREET: 1}


def test_a_lease_that_ends_with_the_cancellation_of_its_run_is_not_lost(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    batch_leases.release(batch, "running", "cancelled", attempts=3, force=True)
    totals = tallies.totals()
    assert totals.lost == {}
    assert totals.ended == {("greet", "cancelled"): 1}


def test_counters_outlive_what_retention_deletes(function: Function) -> None:
    ended(function, "succeeded")
    later = datetime.now(UTC) + timedelta(days=1)
    rows("DELETE FROM runyard.invocations WHERE finished_at < %s RETURNING id", later)
    rows("DELETE FROM runyard.events RETURNING id")
    totals = tallies.totals()
    assert totals.ended == {("greet", "succeeded"): 1}
    assert totals.received == {("greet/requested",): 1}


def test_processes_that_fold_at_the_same_time_count_nothing_twice(function: Function) -> None:
    def fold() -> None:
        for _ in range(20):
            tallies.fold()

    threads = [threading.Thread(target=fold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        send("greet/requested")
    for thread in threads:
        thread.join()
    assert tallies.totals().received == {("greet/requested",): 50}


def test_folding_leaves_no_tallies_behind(function: Function) -> None:
    send("greet/requested")
    tallies.fold()
    assert rows("SELECT FROM runyard.tallies") == []


def test_what_the_code_no_longer_has_loses_its_counters_after_a_day(function: Function) -> None:
    ended(function, "succeeded")
    tallies.fold()
    rows("UPDATE runyard.functions SET active = false RETURNING name")
    housekeeping.purge()
    assert tallies.totals().received == {("greet/requested",): 1}
    assert tallies.totals().ended == {("greet", "succeeded"): 1}
    rows("UPDATE runyard.counters SET at = at - interval '25 hours' RETURNING name")
    housekeeping.purge()
    assert tallies.totals().received == {}
    assert tallies.totals().ended == {}


def test_what_the_code_has_keeps_its_counters_however_quiet_it_is(function: Function) -> None:
    ended(function, "succeeded")
    send("nobody/listens")
    tallies.fold()
    rows("UPDATE runyard.counters SET at = at - interval '25 hours' RETURNING name")
    housekeeping.purge()
    assert tallies.totals().received == {("greet/requested",): 1, ("other",): 1}
    assert tallies.totals().ended == {("greet", "succeeded"): 1}


def test_a_function_that_has_just_counted_keeps_all_of_its_buckets(function: Function) -> None:
    ended(function, "succeeded")
    tallies.fold()
    rows("UPDATE runyard.counters SET at = at - interval '25 hours' RETURNING name")
    before = tallies.totals().ended
    ended(function, "failed")
    tallies.fold()
    rows("UPDATE runyard.functions SET active = false RETURNING name")
    housekeeping.purge()
    assert tallies.totals().ended == {**before, ("greet", "failed"): 1}
