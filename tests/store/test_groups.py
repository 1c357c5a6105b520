"""Functions that take many events together: one invocation leads the others, which end with it."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runyard import Event, clock, send
from runyard.engine import (
    batch_claims,
    batch_leases,
    bulk,
    control,
    housekeeping,
    retention,
    settlement,
)
from runyard.engine.bulk import Selection
from runyard.engine.items import items_from_rows
from runyard.engine.settlement import Outcome
from runyard.functions.flow_control import (
    BatchEvents,
    Concurrency,
    Flow,
    Idempotency,
    Throttle,
    Timeouts,
)
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.syntax.retention_policy import Retention
from tests.conftest import Publish, wait_until
from tests.tables import rows

ALL = ["succeeded"] * 3


@pytest.fixture(autouse=True)
def frozen(empty: None) -> Iterator[None]:
    """Time stands still, and a test advances it."""
    database.close_pool()
    clock.freeze(datetime.now(UTC))
    yield
    clock.freeze(None)
    database.close_pool()


def together(publish: Publish, *, batch: dict[str, Any] | None = None, **flow: Any) -> Function:
    function = Function(
        "gather",
        "gather_job",
        ("gather/sent",),
        max_batch=100,
        retry=Retry(attempts=2, delays=(10.0,), jitter=0),
        flow=Flow(batch=BatchEvents(**{"max_size": 3, **(batch or {})}, together=True), **flow),
        remote=True,
    )
    publish(function)
    return function


def sent(count: int, **data: Any) -> list[str]:
    return send([Event("gather/sent", {"n": n, **data}) for n in range(count)])


def advance(seconds: float) -> None:
    clock.freeze(clock.now() + timedelta(seconds=seconds))


def claimed(function: Function) -> str:
    [claim] = batch_claims.claim(function) or []
    return claim.batch_id


def events_of(batch: str, run: str = "run-1") -> list[list[int]]:
    """Begin a batch: for each of its invocations what its events hold."""
    begun = batch_leases.begin(batch, run)
    assert begun is not None
    items, _ = items_from_rows(begun[1], begun[2], run)
    return [[event.data["n"] for event in item.events] for item in items]


def statuses() -> list[str]:
    return [row["status"] for row in rows("SELECT status FROM runyard.invocations ORDER BY id")]


def leaders() -> list[int | None]:
    found = rows("SELECT leader_id FROM runyard.invocations ORDER BY id")
    return [row["leader_id"] for row in found]


def settled(batch: str, status: str, run: str = "run-1", **outcome: Any) -> None:
    [row] = rows("SELECT invocations FROM runyard.batches WHERE id = %s", batch)
    settlement.settle(batch, run, [Outcome(id, status, **outcome) for id in row["invocations"]])


def test_a_full_batch_is_one_invocation_with_all_events(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    assert statuses() == ["claimed", "grouped", "grouped"]
    assert leaders() == [1, 1, 1]
    assert events_of(batch) == [[0, 1, 2]]


def test_fewer_events_are_taken_when_the_first_has_waited_for_the_timeout(
    publish_functions: Publish,
) -> None:
    function = together(publish_functions, batch={"timeout": 30})
    sent(2)
    assert batch_claims.claim(function) == []
    advance(31)
    assert events_of(claimed(function)) == [[0, 1]]


def test_the_timeout_to_start_begins_when_the_gathering_has_ended(
    publish_functions: Publish,
) -> None:
    function = together(
        publish_functions, batch={"timeout": 30}, timeouts=Timeouts(start="10s", finish="1m")
    )
    sent(2)
    advance(35)
    assert housekeeping.expire() == 0
    assert events_of(claimed(function)) == [[0, 1]]
    advance(61)
    assert housekeeping.expire() == 2
    sent(2)
    advance(41)
    assert housekeeping.expire() == 2


def test_the_end_of_a_group_is_that_of_its_leader(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "succeeded", output='{"sum": 3}')
    ends = rows(
        "SELECT DISTINCT status, attempt, run_id, finished_at, batch_id FROM runyard.invocations"
    )
    assert [(end["status"], end["attempt"], end["run_id"]) for end in ends] == [
        ("succeeded", 1, "run-1")
    ]
    assert ends[0]["finished_at"] is not None


def test_the_output_of_a_group_is_kept_once_and_shown_for_all(publish_functions: Publish) -> None:
    function = together(publish_functions)
    ids = sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "succeeded", output="7")
    kept = rows("SELECT id FROM runyard.invocations WHERE output IS NOT NULL")
    assert kept == [{"id": 1}]
    with database.connection() as connection:
        shown = fetch_all(connection, "invocations_in_full", events=ids, invocation=None)
    assert [row["output"] for row in shown] == [7, 7, 7]


def test_a_retry_keeps_the_group_and_takes_in_no_other_events(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "queued", delay=10.0, attempt=1)
    assert statuses() == ["queued", "grouped", "grouped"]
    sent(3)
    advance(11)
    both = batch_claims.claim(function) or []
    begun = [events_of(claim.batch_id, f"run-{n}") for n, claim in enumerate(both, 2)]
    assert begun == [[[0, 1, 2]], [[0, 1, 2]]]
    assert leaders() == [1, 1, 1, 4, 4, 4]


def test_a_sleep_keeps_the_group(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    rows(
        "SELECT FROM runyard.wait_v1(%s::jsonb)",
        json.dumps([{"invocation": 1, "step": "nap", "kind": "sleep", "seconds": 60}]),
    )
    settled(batch, "sleeping", attempt=0, suspended=("nap",))
    assert statuses() == ["sleeping", "grouped", "grouped"]
    advance(61)
    assert events_of(claimed(function), "run-2") == [[0, 1, 2]]


@pytest.mark.parametrize("begins", [False, True])
def test_a_lost_worker_keeps_the_group(publish_functions: Publish, begins: bool) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    if begins:
        events_of(batch)
    expected = "running" if begins else "claimed"
    batch_leases.release(batch, expected, "queued", attempts=2, crashed=begins, force=True)
    sent(2)
    assert events_of(claimed(function), "run-2") == [[0, 1, 2]]
    advance(61)
    assert events_of(claimed(function), "run-3") == [[0, 1]]


def test_a_worker_that_stops_keeps_the_group(
    publish_functions: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = together(publish_functions)
    sent(3)
    monkeypatch.setattr(batch_leases, "_worker_name", "here:1:2")
    events_of(claimed(function))
    with database.connection() as connection:
        fetch_all(connection, "hand_back", name="here:1", lease=30)
    assert statuses() == ["queued", "grouped", "grouped"]
    sent(2)
    advance(5)
    assert events_of(claimed(function), "run-2") == [[0, 1, 2]]


def test_a_group_whose_worker_is_lost_again_and_again_fails(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    for attempt in range(2):
        batch = claimed(function)
        events_of(batch, f"run-{attempt}")
        batch_leases.release(batch, "running", "queued", attempts=2, crashed=True, force=True)
    assert statuses() == ["failed"] * 3


def test_groups_are_by_the_value_of_the_key(publish_functions: Publish) -> None:
    function = together(
        publish_functions, batch={"key": "event.data.tenant + '-' + event.data.kind", "timeout": 30}
    )
    for n, tenant in enumerate(["a", "b", "a"]):
        send(Event("gather/sent", {"n": n, "tenant": tenant, "kind": "x"}))
    advance(31)
    both = batch_claims.claim(function) or []
    assert sorted(events_of(claim.batch_id, claim.batch_id) for claim in both) == [[[0, 2]], [[1]]]


def test_an_event_that_does_not_meet_the_condition_is_run_alone_at_once(
    publish_functions: Publish,
) -> None:
    function = together(publish_functions, batch={"condition": "event.data.small"})
    send([Event("gather/sent", {"n": n, "small": n != 1}) for n in range(3)])
    send(Event("gather/sent", {"n": 3}))
    batch = claimed(function)
    assert events_of(batch) == [[1], [3]]
    assert leaders() == [None] * 4
    assert statuses() == ["queued", "running", "queued", "running"]


def test_what_was_run_alone_stays_alone(publish_functions: Publish) -> None:
    function = together(publish_functions, batch={"condition": "event.data.small"})
    send([Event("gather/sent", {"n": 0}), Event("gather/sent", {"n": 1})])
    batch = claimed(function)
    events_of(batch)
    settled(batch, "queued", delay=10.0, attempt=1)
    advance(11)
    assert events_of(claimed(function), "run-2") == [[0], [1]]


@pytest.mark.parametrize("member", [1, 2])
@pytest.mark.parametrize("begins", [False, True])
def test_one_of_a_group_cancels_all_of_it(
    publish_functions: Publish, member: int, begins: bool
) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    if begins:
        events_of(batch)
    assert control.cancel(Selection(invocations=(member,))) == 3
    [row] = rows("SELECT cancelled FROM runyard.batches")
    assert row["cancelled"] == [1]
    batch_leases.release(
        batch, "running" if begins else "claimed", "queued", attempts=2, force=True
    )
    assert statuses() == ["cancelled"] * 3


def test_a_group_that_waits_for_its_next_attempt_is_cancelled_at_once(
    publish_functions: Publish,
) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "queued", delay=10.0, attempt=1)
    assert rows("SELECT runyard.cancel(3, 'no more') AS asked") == [{"asked": True}]
    reasons = rows("SELECT DISTINCT status, error->>'message' AS why FROM runyard.invocations")
    assert reasons == [{"status": "cancelled", "why": "no more"}]


def test_what_is_being_gathered_is_cancelled_with_its_group(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    cancelled: list[int] = []
    cancelling = threading.Thread(
        target=lambda: cancelled.append(control.cancel(Selection(invocations=(2,))))
    )
    with database.transaction() as connection:
        batch_claims.claim_some(connection, function, 1)
        cancelling.start()
        wait_until(lambda: rows("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"))
    cancelling.join(20)
    assert cancelled == [3]


def test_one_of_a_group_makes_all_of_it_due(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "queued", delay=1000.0, attempt=1)
    assert control.run_now(2) == [2]
    assert events_of(claimed(function), "run-2") == [[0, 1, 2]]


def failed_group(function: Function) -> str:
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "failed", error='{"type": "Error", "message": "no"}')
    return batch


def test_a_failure_is_that_of_each_event(publish_functions: Publish) -> None:
    failed_group(together(publish_functions))
    letters = rows("SELECT id, message FROM runyard.dead_letters ORDER BY id")
    assert letters == [{"id": n, "message": "no"} for n in (1, 2, 3)]


def test_a_replay_of_one_is_a_new_group_of_the_same_events(publish_functions: Publish) -> None:
    function = together(publish_functions)
    failed_group(function)
    sent(3)
    assert control.replay(Selection(invocations=(2,))) == 3
    assert rows("SELECT FROM runyard.dead_letters") == []
    both = batch_claims.claim(function) or []
    begun = [events_of(claim.batch_id, claim.batch_id) for claim in both]
    assert begun == [[[0, 1, 2]], [[0, 1, 2]]]
    assert leaders() == [1, 1, 1, 4, 4, 4, 7, 7, 7]
    replays = rows("SELECT replay_of FROM runyard.invocations WHERE id > 6 ORDER BY id")
    assert [row["replay_of"] for row in replays] == [1, 2, 3]


def test_a_bulk_replays_a_group_once_however_it_is_cut_up(
    publish_functions: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = together(publish_functions)
    failed_group(function)
    monkeypatch.setattr(bulk, "CHUNK", 2)
    database.close_pool()
    control.replay(Selection(function="gather", since=clock.now() - timedelta(days=1)))
    assert leaders() == [1, 1, 1, 4, 4, 4]


def test_a_replay_keeps_the_steps_of_the_group(publish_functions: Publish) -> None:
    function = together(publish_functions)
    failed_group(function)
    rows(
        "INSERT INTO runyard.steps (invocation_id, step, attempt, output, started_at, finished_at)"
        " VALUES (1, 'a', 1, '1', now(), now()) RETURNING 1"
    )
    control.replay(Selection(invocations=(3,)), keep_steps=True)
    copied = rows("SELECT invocation_id FROM runyard.steps WHERE invocation_id > 3")
    assert copied == [{"invocation_id": 4}]


def test_a_run_that_is_executed_again_from_its_failure_has_its_group_again(
    publish_functions: Publish,
) -> None:
    function = together(publish_functions)
    parent = failed_group(function)
    batch = batch_claims.claim_unfinished(function, parent)
    assert batch is not None
    assert statuses() == ["claimed", "grouped", "grouped"]
    assert events_of(batch, "run-2") == [[0, 1, 2]]
    settled(batch, "succeeded", run="run-2")
    assert statuses() == ALL


def test_a_run_that_is_executed_again_replays_its_group(publish_functions: Publish) -> None:
    function = together(publish_functions)
    parent = failed_group(function)
    batch = batch_claims.claim_replay(function, parent)
    assert batch is not None
    assert events_of(batch, "run-2") == [[0, 1, 2]]


def test_one_of_a_group_dismisses_all_of_it(publish_functions: Publish) -> None:
    failed_group(together(publish_functions))
    assert rows("SELECT runyard.dismiss(2) AS done") == [{"done": True}]
    assert rows("SELECT FROM runyard.dead_letters") == []


def test_a_group_counts_as_one_of_a_concurrency_limit(publish_functions: Publish) -> None:
    function = together(publish_functions, concurrency=(Concurrency(2),))
    sent(9)
    claims = batch_claims.claim(function) or []
    assert len(claims) == 2
    batch = claims[0].batch_id
    events_of(batch)
    settlement.settle_some(batch, "run-1", [Outcome(1, "queued", delay=0.0, attempt=1)])
    third = claimed(function)
    assert third
    assert batch_claims.claim(function) == []


def test_groups_that_come_back_count_one_each(publish_functions: Publish) -> None:
    function = together(publish_functions, concurrency=(Concurrency(2),))
    for run in ("run-1", "run-2", "run-3"):
        sent(3)
        batch = claimed(function)
        events_of(batch, run)
        settled(batch, "queued", run=run, delay=10.0, attempt=1)
    advance(11)
    assert len(events_of(claimed(function), "run-4")) == 2
    assert batch_claims.claim(function) == []


def test_a_group_counts_as_one_of_a_throttle(publish_functions: Publish) -> None:
    function = together(publish_functions, throttle=Throttle(1, "1h", burst=1))
    sent(6)
    assert len(batch_claims.claim(function) or []) == 1
    advance(3601)
    assert len(batch_claims.claim(function) or []) == 1


def test_events_are_skipped_before_they_are_gathered(publish_functions: Publish) -> None:
    function = together(publish_functions, idempotency=Idempotency("data.k"))
    send([Event("gather/sent", {"n": n, "k": min(n, 2)}) for n in range(4)])
    assert events_of(claimed(function)) == [[0, 1, 2]]
    assert statuses() == ["running", "grouped", "grouped", "skipped"]


def test_a_group_outlives_a_deploy_that_gathers_no_more(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "queued", delay=10.0, attempt=1)
    plain = Function("gather", "gather_job", ("gather/sent",), remote=True)
    publish_functions(plain)
    advance(11)
    assert events_of(claimed(plain), "run-2") == [[0, 1, 2]]


def test_a_group_outlives_a_deploy_with_another_key(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    batch_leases.release(claimed(function), "claimed", "queued", attempts=2, force=True)
    keyed = together(publish_functions, batch={"key": "data.tenant"})
    sent(2)
    advance(61)
    both = batch_claims.claim(keyed) or []
    assert sorted(events_of(claim.batch_id, claim.batch_id) for claim in both) == [
        [[0, 1]],
        [[0, 1, 2]],
    ]


def test_a_group_is_deleted_with_its_leader(publish_functions: Publish) -> None:
    function = together(publish_functions)
    failed_group(function)
    sent(1)
    database.close_pool()
    advance(40 * 86_400)
    retention.sweep(retention=Retention.parse("30d"))
    assert statuses() == ["queued"]


def ended(event: str) -> list[dict[str, Any]]:
    return [row["data"] for row in rows("SELECT data FROM runyard.events WHERE name = %s", event)]


def test_one_event_tells_of_the_end_of_a_group(publish_functions: Publish) -> None:
    listener = Function(
        "listens",
        "listens_job",
        ("inngest/function.failed", "inngest/function.finished", "runyard/function.failed"),
    )
    function = together(publish_functions)
    publish_functions(function, listener)
    ids = failed_group_ids(function)
    for name in ("inngest/function.failed", "inngest/function.finished"):
        [data] = ended(name)
        assert data["event"]["id"] == ids[0]
        assert [event["id"] for event in data["events"]] == ids
    assert [data["invocation"] for data in ended("runyard/function.failed")] == [1]


def failed_group_ids(function: Function) -> list[str]:
    ids = sent(3)
    batch = claimed(function)
    events_of(batch)
    settled(batch, "failed", error='{"type": "Error", "message": "no"}')
    return ids


def test_each_event_that_somebody_waits_for_is_told_of_by_itself(
    publish_functions: Publish,
) -> None:
    listener = Function("listens", "listens_job", ("inngest/function.finished",))
    function = together(publish_functions)
    publish_functions(function, listener)
    for n in range(3):
        more = {"_inngest": {"correlation_id": f"c{n}"}} if n else {}
        send(Event("gather/sent", {"n": n, **more}))
    batch = claimed(function)
    events_of(batch)
    settled(batch, "succeeded", output="3")
    told = ended("inngest/function.finished")
    assert {data.get("correlation_id") for data in told} == {None, "c1", "c2"}
    assert {data["run_id"] for data in told} == {told[0]["run_id"]}
    assert [data["result"] for data in told] == [3, 3, 3]


def test_whoever_invoked_one_of_a_group_gets_what_it_has_come_to(
    publish_functions: Publish,
) -> None:
    function = together(publish_functions)
    ids = sent(3)
    rows(
        "INSERT INTO runyard.waits (invocation_id, step, kind, event, match_paths, match_value,"
        " expires_at) VALUES (999, 'call', 'invoke', 'runyard/function.finished',"
        ' \'[["data", "event_id"]]\', runyard.shorten_v1(to_jsonb(%s::text)::text),'
        " 'infinity') RETURNING 1",
        ids[1],
    )
    batch = claimed(function)
    events_of(batch)
    settled(batch, "succeeded", output="3")
    [data] = ended("runyard/function.finished")
    assert (data["event_id"], data["output"], data["status"]) == (ids[1], 3, "succeeded")


def test_what_is_grouped_is_not_queued(publish_functions: Publish) -> None:
    function = together(publish_functions)
    sent(3)
    claimed(function)
    with database.connection() as connection:
        assert fetch_all(connection, "queues") == []
        [row] = fetch_all(connection, "functions")
    assert row["queued"] == 0


def test_other_functions_have_no_groups(function: Function) -> None:
    send([Event("greet/requested") for _ in range(3)])
    batch_claims.claim(function)
    assert leaders() == [None] * 3
