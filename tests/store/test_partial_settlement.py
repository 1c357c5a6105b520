"""Invocations that are settled before the end of their batch, whose lease goes on with the rest."""

import threading
from typing import Any

import pytest

from runyard import Event, send
from runyard.engine import (
    batch_claims,
    batch_leases,
    checkpoints,
    housekeeping,
    settlement,
    wait_registration,
)
from runyard.engine.settlement import Outcome
from runyard.errors import LeaseLost
from runyard.functions.flow_control import BatchEvents, Concurrency, Flow, Singleton
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import fetch_all
from tests.conftest import Publish
from tests.tables import rows


def begun(function: Function, run: str = "run-1") -> str:
    """The id of a batch that a run has begun."""
    [claim, *_] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, run)
    return claim.batch_id


def statuses() -> dict[int, str]:
    return {
        row["id"]: row["status"]
        for row in rows("SELECT id, status FROM runyard.invocations ORDER BY id")
    }


def cancel(invocation: int) -> None:
    rows("SELECT runyard.cancel_v1(ARRAY[%s::bigint], 'asked')", invocation)


def pair(
    invocation: int, step: str, output: str | None = "1", error: str | None = None, at: float = 1.0
) -> checkpoints.PairRow:
    return (invocation, step, 1, output, error, at, at + 1)


def limited(publish: Publish, *limits: Concurrency, **flow: Any) -> Function:
    function = Function(
        "limited", "limited_job", ("greet/limited",), flow=Flow(concurrency=limits, **flow)
    )
    publish(function)
    return function


def slots() -> list[dict[str, Any]]:
    [row] = rows("SELECT slots FROM runyard.batches ORDER BY claimed_at LIMIT 1")
    return sorted(row["slots"] or [], key=str)


def test_the_rest_goes_on_and_is_settled_at_the_end(function: Function) -> None:
    send([Event("greet/requested") for _ in range(4)])
    batch = begun(function)
    settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded", output="5")])
    settlement.settle_some(batch, "run-1", [Outcome(2, "failed", error='{"message": "m"}')])
    assert statuses() == {1: "succeeded", 2: "failed", 3: "running", 4: "running"}
    checkpoints.save_steps(batch, "run-1", "a", [(3, 1, "1", None, 1.0, 2.0)])
    settlement.settle(batch, "run-1", [Outcome(3, "succeeded"), Outcome(4, "succeeded")])
    assert set(statuses().values()) == {"succeeded", "failed"}
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_the_lease_ends_with_no_outcome_when_all_were_settled_before(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
    settlement.settle(batch, "run-1", [])
    assert rows("SELECT status FROM runyard.batches") == [{"status": "finished"}]


def test_nothing_is_settled_without_the_lease(function: Function) -> None:
    send("greet/requested")
    batch = begun(function)
    with pytest.raises(LeaseLost):
        settlement.settle_some(batch, "run-2", [Outcome(1, "succeeded")])
    assert statuses() == {1: "running"}


def test_an_outcome_that_is_written_again_does_not_reach_the_next_run(function: Function) -> None:
    send([Event("greet/requested") for _ in range(2)])
    first = begun(function)
    again = [Outcome(1, "queued", attempt=1)]
    settlement.settle_some(first, "run-1", again)
    second = begun(function, "run-2")
    settlement.settle_some(first, "run-1", again)
    settlement.settle(first, "run-1", [Outcome(1, "failed"), Outcome(2, "succeeded")])
    assert rows("SELECT status, batch_id FROM runyard.invocations WHERE id = 1") == [
        {"status": "running", "batch_id": second}
    ]


def test_late_results_and_waits_of_what_has_left_are_passed_over(function: Function) -> None:
    send([Event("greet/requested") for _ in range(2)])
    batch = begun(function)
    settlement.settle_some(batch, "run-1", [Outcome(1, "queued", attempt=1)])
    checkpoints.save_pairs(batch, "run-1", [pair(1, "a"), pair(2, "a")])
    requests = [{"invocation": n, "step": "s", "kind": "sleep", "seconds": 60} for n in (1, 2)]
    registered = wait_registration.register_pairs(batch, "run-1", requests)
    assert rows("SELECT invocation_id FROM runyard.steps") == [{"invocation_id": 2}]
    assert [row["invocation_id"] for row in registered] == [2]
    assert rows("SELECT invocation_id FROM runyard.waits") == [{"invocation_id": 2}]


def test_an_outcome_that_the_database_rejects_is_a_failure_and_the_rest_goes_on(
    function: Function,
) -> None:
    send([Event("greet/requested") for _ in range(3)])
    batch = begun(function)
    settlement.settle_some(
        batch, "run-1", [Outcome(1, "succeeded", output='"\\u0000"'), Outcome(2, "succeeded")]
    )
    assert statuses() == {1: "failed", 2: "succeeded", 3: "running"}
    assert rows("SELECT status FROM runyard.batches") == [{"status": "running"}]


def test_what_is_settled_is_suspended_until_its_first_wait_is_over(function: Function) -> None:
    send([Event("greet/requested") for _ in range(2)])
    batch = begun(function)
    requests = [
        {"invocation": 1, "step": "long", "kind": "sleep", "seconds": 60},
        {"invocation": 1, "step": "short", "kind": "sleep", "seconds": 0.01},
    ]
    wait_registration.register_pairs(batch, "run-1", requests)
    settlement.settle_some(
        batch, "run-1", [Outcome(1, "sleeping", attempt=0, suspended=("long", "short"))]
    )
    assert rows(
        "SELECT status, due_at < now() + interval '1 s' AS soon FROM runyard.invocations"
        " WHERE id = 1"
    ) == [{"status": "sleeping", "soon": True}]


class TestTheRestAfterAKill:
    """What has left the batch is not touched by whatever takes the rest back."""

    def partly_settled(self, function: Function) -> str:
        send([Event("greet/requested") for _ in range(4)])
        batch = begun(function)
        outcomes = [Outcome(1, "succeeded", output="5"), Outcome(2, "queued", attempt=1)]
        settlement.settle_some(batch, "run-1", outcomes)
        return batch

    def test_a_lost_worker_queues_the_rest_again(self, function: Function) -> None:
        batch = self.partly_settled(function)
        released = batch_leases.release(
            batch, "running", "queued", attempts=3, crashed=True, force=True
        )
        assert released == 2
        found = rows("SELECT status, crashes, attempt FROM runyard.invocations ORDER BY id")
        assert found == [
            {"status": "succeeded", "crashes": 0, "attempt": 1},
            {"status": "queued", "crashes": 0, "attempt": 1},
            {"status": "queued", "crashes": 1, "attempt": 0},
            {"status": "queued", "crashes": 1, "attempt": 0},
        ]

    def test_what_left_runs_on_in_another_batch_when_the_worker_is_lost(
        self, function: Function
    ) -> None:
        first = self.partly_settled(function)
        second = begun(function, "run-2")
        batch_leases.release(first, "running", "queued", attempts=3, crashed=True, force=True)
        assert rows("SELECT status, batch_id FROM runyard.invocations WHERE id = 2") == [
            {"status": "running", "batch_id": second}
        ]

    def test_a_worker_that_stops_gives_back_only_the_rest(self, function: Function) -> None:
        batch = self.partly_settled(function)
        rows("UPDATE runyard.batches SET worker = 'w:1:2' WHERE id = %s RETURNING id", batch)
        with database.connection() as connection:
            fetch_all(connection, "hand_back", name="w", lease=30)
        assert statuses() == {1: "succeeded", 2: "queued", 3: "queued", 4: "queued"}
        [row] = rows("SELECT attempt FROM runyard.invocations WHERE id = 2")
        assert row == {"attempt": 1}

    def test_a_run_that_is_stopped_cancels_only_the_rest(self, function: Function) -> None:
        batch = self.partly_settled(function)
        batch_leases.release(batch, "running", "cancelled", attempts=3, force=True)
        assert statuses() == {1: "succeeded", 2: "queued", 3: "cancelled", 4: "cancelled"}

    def test_another_process_takes_up_only_the_rest(self, function: Function) -> None:
        batch = self.partly_settled(function)
        again = batch_leases.begin(batch, "run-1", fresh=False)
        assert again is not None
        assert [row["id"] for row in again[1]] == [3, 4]

    def test_a_reexecution_takes_up_all_of_it(self, function: Function) -> None:
        batch = self.partly_settled(function)
        settlement.settle(batch, "run-1", [Outcome(3, "failed"), Outcome(4, "succeeded")])
        claimed = batch_claims.claim_unfinished(function, batch)
        assert rows(
            "SELECT id FROM runyard.invocations WHERE batch_id = %s ORDER BY id", claimed
        ) == [{"id": 2}, {"id": 3}]


class TestCancelling:
    """A cancel finds an invocation where it is by then."""

    def test_one_that_has_left_and_waits_ends_at_once(self, function: Function) -> None:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function)
        settlement.settle_some(batch, "run-1", [Outcome(1, "queued", attempt=1)])
        cancel(1)
        assert statuses() == {1: "cancelled", 2: "running"}
        assert rows("SELECT cancelled FROM runyard.batches") == [{"cancelled": []}]

    def test_one_that_is_still_in_the_batch_does_not_suspend_again(
        self, function: Function
    ) -> None:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function)
        cancel(1)
        settlement.settle_some(batch, "run-1", [Outcome(1, "queued", attempt=1)])
        assert statuses() == {1: "cancelled", 2: "running"}


class TestSlots:
    """What leaves a batch frees its share of the concurrency limits."""

    def test_the_next_of_the_key_is_claimed_while_the_batch_goes_on(
        self, publish_functions: Publish
    ) -> None:
        function = limited(publish_functions, Concurrency(1, key="data.k"))
        send([Event("greet/limited", {"k": n % 2}) for n in range(4)])
        first = begun(function)
        assert batch_claims.claim(function) == []
        settlement.settle_some(first, "run-1", [Outcome(1, "succeeded")])
        second = begun(function, "run-2")
        assert rows("SELECT invocations FROM runyard.batches WHERE id = %s", second) == [
            {"invocations": [3]}
        ]
        assert slots() == [{"scope": "limited 0", "key": "1", "n": 1}]

    def test_claimants_at_once_share_what_became_free(self, publish_functions: Publish) -> None:
        function = limited(publish_functions, Concurrency(4), Concurrency(3, key="data.k"))
        send([Event("greet/limited", {"k": "a"}) for _ in range(20)])
        first = begun(function)
        settlement.settle_some(first, "run-1", [Outcome(n, "succeeded") for n in (1, 2)])
        start = threading.Barrier(2)
        claims: list[batch_claims.Claim] = []

        def claim() -> None:
            start.wait()
            claims.extend(batch_claims.claim(function) or [])

        threads = [threading.Thread(target=claim) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claim.size for claim in claims) == 2
        assert slots() == [
            {"scope": "limited 0", "key": "", "n": 1},
            {"scope": "limited 1", "key": "a", "n": 1},
        ]

    def test_a_share_is_freed_once_however_often_the_outcome_is_written(
        self, publish_functions: Publish
    ) -> None:
        function = limited(publish_functions, Concurrency(3))
        send([Event("greet/limited") for _ in range(5)])
        batch = begun(function)
        for _ in range(3):
            settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
        assert slots() == [{"scope": "limited 0", "key": "", "n": 2}]

    def test_nothing_is_held_when_all_have_left(self, publish_functions: Publish) -> None:
        function = limited(publish_functions, Concurrency(2))
        send([Event("greet/limited") for _ in range(2)])
        batch = begun(function)
        settlement.settle_some(batch, "run-1", [Outcome(n, "succeeded") for n in (1, 2)])
        assert slots() == []

    def test_a_shared_limit_is_free_for_another_function(self, publish_functions: Publish) -> None:
        one, other = (
            Function(
                name,
                f"{name}_job",
                (f"greet/{name}",),
                flow=Flow(concurrency=(Concurrency(1, scope="both"),)),
            )
            for name in ("one", "other")
        )
        publish_functions(one, other)
        send([Event("greet/one"), Event("greet/other"), Event("greet/one")])
        batch = begun(one)
        assert batch_claims.claim(other) == []
        settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
        assert [claim.size for claim in batch_claims.claim(other) or []] == [1]

    def test_a_singleton_that_has_left_makes_room_for_the_next(
        self, publish_functions: Publish
    ) -> None:
        function = limited(publish_functions, singleton=Singleton(key="data.k"))
        send([Event("greet/limited", {"k": k}) for k in "ab"])
        batch = begun(function)
        settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
        send([Event("greet/limited", {"k": k}) for k in "ab"])
        begun(function, "run-2")
        assert statuses() == {1: "succeeded", 2: "running", 3: "running", 4: "skipped"}

    def test_gathered_events_hold_their_slot_to_the_end(self, publish_functions: Publish) -> None:
        function = limited(publish_functions, Concurrency(1), batch=BatchEvents(2, 1))
        send([Event("greet/limited") for _ in range(4)])
        batch = begun(function)
        settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
        assert batch_claims.claim(function) == []

    def test_a_function_that_has_other_keys_by_now_frees_them_at_the_end(
        self, publish_functions: Publish
    ) -> None:
        function = limited(publish_functions, Concurrency(2, key="data.k"))
        send([Event("greet/limited", {"k": 1}) for _ in range(2)])
        batch = begun(function)
        limited(publish_functions, Concurrency(2, key="data.other"))
        settlement.settle_some(batch, "run-1", [Outcome(1, "succeeded")])
        assert slots() == [{"scope": "limited 0", "key": "1", "n": 2}]


class TestPairs:
    """Results and waits of many steps in one call."""

    def test_results_of_different_steps_are_saved_in_their_order(self, function: Function) -> None:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function)
        refused = checkpoints.save_pairs(
            batch, "run-1", [pair(2, "b"), pair(1, "a", '{"data": 1}'), pair(1, "b", "null")]
        )
        assert refused == {}
        assert rows(
            "SELECT invocation_id AS i, step, output FROM runyard.steps ORDER BY number"
        ) == [
            {"i": 2, "step": "b", "output": 1},
            {"i": 1, "step": "a", "output": {"data": 1}},
            {"i": 1, "step": "b", "output": None},
        ]

    def test_a_failed_try_and_the_result_after_it_may_come_together(
        self, function: Function
    ) -> None:
        send("greet/requested")
        batch = begun(function)
        checkpoints.save_pairs(
            batch,
            "run-1",
            [
                pair(1, "a", None, '{"message": "m"}'),
                pair(1, "b"),
                pair(1, "a", '"done"', at=5.0),
                pair(1, "a", '"again"', at=6.0),
            ],
        )
        assert rows("SELECT step, tries, output, error FROM runyard.steps ORDER BY step") == [
            {"step": "a", "tries": 2, "output": "done", "error": None},
            {"step": "b", "tries": 1, "output": 1, "error": None},
        ]

    def test_a_result_that_the_database_rejects_is_named_and_the_others_are_saved(
        self, function: Function
    ) -> None:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function)
        bad = pair(1, "b", '"\\u0000"')
        refused = checkpoints.save_pairs(batch, "run-1", [pair(1, "a"), bad, pair(2, "b")])
        assert set(refused) == {(1, "b")}
        assert rows("SELECT count(*) FROM runyard.steps") == [{"count": 2}]

    def test_results_of_pairs_need_the_lease(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        with pytest.raises(LeaseLost):
            checkpoints.save_pairs(batch, "run-2", [pair(1, "a")])
        assert rows("SELECT FROM runyard.steps") == []

    def test_events_are_sent_with_the_result_of_their_pair(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        checkpoints.save_pairs(
            batch,
            "run-1",
            [pair(1, "a"), pair(1, "b")],
            events={(1, "b"): '{"name": "other/sent"}'},
        )
        assert rows("SELECT name FROM runyard.events WHERE name = 'other/sent'") == [
            {"name": "other/sent"}
        ]

    def test_waits_that_are_over_are_given_in_the_order_in_which_they_ended(
        self, function: Function
    ) -> None:
        send([Event("greet/requested") for _ in range(2)])
        batch = begun(function)
        send("answer/given", {"n": 1})
        registered = wait_registration.register_pairs(
            batch,
            "run-1",
            [
                {"invocation": 1, "step": "open", "kind": "sleep", "seconds": 60},
                {"invocation": 1, "step": "past", "kind": "sleep", "until": 1000},
                {
                    "invocation": 1,
                    "step": "e",
                    "kind": "event",
                    "event": "answer/given",
                    "seconds": 60,
                },
                {
                    "invocation": 2,
                    "step": "late",
                    "kind": "event",
                    "event": "no/event",
                    "seconds": 0,
                },
            ],
        )
        assert sorted((row["step"], row["done"], row["expired"]) for row in registered) == [
            ("e", True, False),
            ("late", True, True),
            ("open", False, False),
            ("past", True, True),
        ]
        over = wait_registration.finished_waits(batch, "run-1", [1, 2])
        first = over[0]
        assert (first["step"], first["kind"], first["expired"]) == ("past", "sleep", True)
        assert {row["step"] for row in over} == {"past", "e", "late"}
        [given] = [row for row in over if row["step"] == "e"]
        assert given["result"]["data"] == {"n": 1}

    def test_a_wait_whose_result_is_saved_is_not_given_again(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        requests = [
            {"invocation": 1, "step": step, "kind": "sleep", "until": 1000} for step in ("a", "b")
        ]
        wait_registration.register_pairs(batch, "run-1", requests)
        checkpoints.save_pairs(batch, "run-1", [pair(1, "a", "null")])
        over = wait_registration.finished_waits(batch, "run-1", [1])
        assert [row["step"] for row in over] == ["b"]

    def test_no_wait_is_over(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        assert wait_registration.finished_waits(batch, "run-1", [1]) == []

    def test_finished_waits_need_the_lease(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        with pytest.raises(LeaseLost):
            wait_registration.finished_waits(batch, "run-2", [1])

    def test_an_event_that_comes_later_resolves_one_wait_of_several(
        self, function: Function
    ) -> None:
        send("greet/requested")
        batch = begun(function)
        requests = [
            {"invocation": 1, "step": name, "kind": "event", "event": name, "seconds": 60}
            for name in ("answer/one", "answer/two")
        ]
        wait_registration.register_pairs(batch, "run-1", requests)
        send("answer/two")
        housekeeping.match_waits()
        over = wait_registration.finished_waits(batch, "run-1", [1])
        assert [row["step"] for row in over] == ["answer/two"]

    def test_events_are_sent_with_new_waits_only(self, function: Function) -> None:
        send("greet/requested")
        batch = begun(function)
        seen: list[set[tuple[int, str]]] = []

        def children(new: set[tuple[int, str]]) -> str | None:
            seen.append(new)
            return None

        requests = [
            {"invocation": 1, "step": step, "kind": "sleep", "seconds": 60} for step in "ab"
        ]
        wait_registration.register_pairs(batch, "run-1", requests[:1], children)
        wait_registration.register_pairs(batch, "run-1", requests, children)
        assert seen == [{(1, "a")}, {(1, "b")}]
