"""Every rule of flow control: what waits, what is skipped, what runs first."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from runyard import Event
from runyard.engine import batch_claims
from runyard.engine.control import set_paused
from runyard.events import millis, rows_as_json
from runyard.functions import registry
from runyard.functions.flow_control import Concurrency, Flow
from runyard.store import database
from runyard.testing import Sent, Yard
from tests.features.sending import in_batch, seconds_to_start, send, statuses
from tests.tables import rows


def tenants_in(batch: str) -> list[str]:
    """The first key of each invocation in a batch."""
    query = "SELECT keys[1] AS tenant FROM runyard.invocations WHERE id = ANY (%s)"
    return [row["tenant"] for row in rows(query, in_batch(batch))]


# --- triggers


@pytest.mark.parametrize(
    ("name", "data", "functions"),
    [
        ("shop/opened", {}, ["wild"]),
        ("shop/", {}, ["wild"]),
        ("shopping/done", {}, []),
        ("order/placed", {"total": 101, "country": "CH"}, ["filtered"]),
        ("order/placed", {"total": 100, "country": "CH"}, []),
        ("order/placed", {"total": "101", "country": "CH"}, []),
        ("order/placed", {}, []),
        ("two/a", {"vip": True}, ["two"]),
        ("two/a", {"vip": None}, []),
        ("two/a", {"vip": False}, []),
    ],
)
def test_names_wildcards_and_filters_choose_the_functions(
    yard: Yard, name: str, data: dict[str, Any], functions: list[str]
) -> None:
    assert [each.function for each in yard.send(name, data).invocations] == functions


def test_a_future_time_schedules_an_event(yard: Yard) -> None:
    in_an_hour = millis(yard.now + timedelta(hours=1))
    sent = yard.send("limited/go", {"tenant": 1}, ts=in_an_hour)
    yard.advance("59m")
    assert sent.invocation.status == "queued"
    yard.advance("1m")
    assert sent.invocation.status == "succeeded"


@pytest.mark.parametrize("function", ["plain", "limited", "rated"])
def test_a_paused_function_keeps_its_invocations_until_it_is_resumed(
    yard: Yard, function: str
) -> None:
    set_paused(function, True)
    sent = send(yard, function, {"n": 1}, {"n": 2})
    yard.advance("1h")
    assert statuses(sent) == ["queued", "queued"]
    set_paused(function, False)
    yard.work()
    assert statuses(sent) == ["succeeded", "succeeded"]


# --- concurrency


def test_no_more_invocations_of_a_key_run_at_a_time_than_the_limit(yard: Yard) -> None:
    sent = send(yard, "limited", *[{"tenant": tenant} for tenant in "aaaabb"])
    [batch] = yard.claim("limited")
    assert len(in_batch(batch)) == 4
    assert yard.claim("limited") == []
    yard.execute("limited", batch)
    assert Counter(statuses(sent)) == {"succeeded": 4, "queued": 2}
    yard.work()
    assert set(statuses(sent)) == {"succeeded"}


def test_several_limits_hold_together(yard: Yard) -> None:
    send(yard, "narrow", *[{"tenant": tenant} for tenant in "aabbccdd"])
    [batch] = yard.claim("narrow")
    tenants = tenants_in(batch)
    assert len(tenants) == 3
    assert len(set(tenants)) == 3


def test_a_scope_is_shared_by_functions(yard: Yard) -> None:
    send(yard, "shared_a", {"tenant": 1}, {"tenant": 2})
    send(yard, "shared_b", {"tenant": 1}, {"tenant": 3})
    [first] = yard.claim("shared_a")
    [second] = yard.claim("shared_b")
    assert (len(in_batch(first)), len(in_batch(second))) == (2, 1)
    yard.execute("shared_a", first)
    [third] = yard.claim("shared_b")
    assert len(in_batch(third)) == 1


def test_a_suspended_invocation_takes_no_slot(yard: Yard) -> None:
    sent = send(yard, "skipping", {"doc": 1})
    yard.work()
    assert statuses(sent) == ["sleeping"]
    assert rows("SELECT slots FROM runyard.batches WHERE status IN ('claimed', 'running')") == []


def test_a_tenant_with_many_events_does_not_delay_another(yard: Yard) -> None:
    yard.send_all([Event("fair/go", {"tenant": "big", "n": n}) for n in range(500)])
    [small] = send(yard, "fair", {"tenant": "small"})
    [batch, *_] = yard.claim("fair")
    assert small.invocation.id in in_batch(batch)
    assert len(in_batch(batch)) == 10


def test_lanes_take_turns_when_a_run_has_room_for_few(yard: Yard) -> None:
    send(yard, "fair", *[{"tenant": f"t{n % 30:02}"} for n in range(90)])
    seen: list[str] = []
    for _ in range(3):
        for batch in yard.claim("fair"):
            seen += tenants_in(batch)
            yard.execute("fair", batch)
    assert len(seen) >= 30
    assert len(set(seen[:30])) == 30


# --- throttle


def test_a_throttle_spreads_beginnings_and_makes_the_others_wait(yard: Yard) -> None:
    sent = send(yard, "throttled", *[{"n": n} for n in range(6)])
    began = yard.now
    yard.advance("10m")
    starts = sorted(seconds_to_start(began, (each.invocation.id for each in sent)))
    assert starts == pytest.approx([0, 0, 10, 20, 30, 40], abs=0.001)
    assert set(statuses(sent)) == {"succeeded"}


def test_retries_do_not_count_for_a_throttle(yard: Yard) -> None:
    [failing, other] = send(yard, "throttled_by", {"tenant": 1, "fails": 1}, {"tenant": 1})
    began = yard.now
    yard.advance("10s")
    assert failing.invocation.status == "succeeded"
    assert other.invocation.status == "queued"
    yard.advance("50s")
    assert seconds_to_start(began, [other.invocation.id]) == [60]


# --- admission rules


def test_a_rate_limit_skips_events_beyond_it_and_says_so(yard: Yard) -> None:
    sent = send(yard, "rated", {"user": 1}, {"user": 1}, {"user": 1}, {"user": 2})
    yard.work()
    assert Counter(statuses(sent)) == {"succeeded": 3, "skipped": 1}
    [skipped] = [each.invocation for each in sent if each.invocation.status == "skipped"]
    assert skipped.error is not None
    assert "rate limit: more than 2 in 60 s" in skipped.error["message"]
    yard.advance("59s")
    assert statuses(send(yard, "rated", {"user": 1})) == ["queued"]
    assert yard.work() == 0
    yard.advance("1s")
    assert yard.work() == 0
    [late] = send(yard, "rated", {"user": 1})
    yard.work()
    assert late.invocation.status == "succeeded"


def test_a_rate_limit_goes_by_the_time_at_which_events_came(yard: Yard) -> None:
    set_paused("rated", True)
    sent: list[Sent] = []
    for _ in range(6):
        sent += send(yard, "rated", {"user": 1})
        yard.advance("40s")
    set_paused("rated", False)
    yard.work()
    assert set(statuses(sent)) == {"succeeded"}


def test_an_idempotency_key_runs_once_in_its_period(yard: Yard) -> None:
    sent = send(yard, "once", {"order": 1}, {"order": 1}, {"order": 2})
    yard.work()
    assert sorted(statuses(sent)) == ["skipped", "succeeded", "succeeded"]
    [again] = send(yard, "once", {"order": 1})
    yard.advance("24h")
    [later] = send(yard, "once", {"order": 1})
    yard.work()
    assert (again.invocation.status, later.invocation.status) == ("skipped", "succeeded")


def test_a_debounce_runs_the_last_after_a_quiet_time(yard: Yard) -> None:
    sent: list[Sent] = []
    for n in range(3):
        sent += send(yard, "debounced", {"doc": 1, "n": n})
        yard.advance("5s")
    assert statuses(sent) == ["skipped", "skipped", "queued"]
    yard.advance("5s")
    assert sent[2].invocation.status == "succeeded"
    assert sent[2].invocation.output["n"] == 2
    assert sent[0].invocation.error is not None
    assert "debounced" in sent[0].invocation.error["message"]


def test_a_debounce_waits_no_longer_than_max_wait(yard: Yard) -> None:
    sent: list[Sent] = []
    began = yard.now
    for n in range(8):
        sent += send(yard, "debounced", {"doc": 1, "n": n})
        yard.advance("5s")
    yard.advance("1m")
    assert statuses(sent) == ["skipped"] * 4 + ["succeeded"] + ["skipped"] * 2 + ["succeeded"]
    run = [each.invocation.id for each in sent if each.invocation.status == "succeeded"]
    assert seconds_to_start(began, run) == [25, 45]


def test_debounces_of_different_keys_are_independent(yard: Yard) -> None:
    sent = send(yard, "debounced", {"doc": 1}, {"doc": 2}, {"doc": 1})
    yard.advance("10s")
    assert Counter(statuses(sent)) == {"succeeded": 2, "skipped": 1}


def test_a_batch_begins_when_it_is_full_or_the_oldest_has_waited(yard: Yard) -> None:
    full = send(yard, "gathered", *[{"tenant": tenant} for tenant in "abaaa"])
    assert yard.work() == 1
    assert Counter(statuses(full)) == {"succeeded": 3, "queued": 2}
    yard.advance("29s")
    assert Counter(statuses(full)) == {"succeeded": 3, "queued": 2}
    assert yard.advance("1s") == 2
    assert set(statuses(full)) == {"succeeded"}


@pytest.mark.parametrize(
    ("function", "levels", "priorities"),
    [
        ("ranked", [1, 9, -9, None, 3], [1, 5, -5, 0, 3]),
        ("expressed", [1, 99, -3, "x", 3], [10, 600, -30, 0, 30]),
    ],
)
def test_higher_priorities_run_first_within_their_bounds(
    yard: Yard, function: str, levels: list[Any], priorities: list[int]
) -> None:
    sent = send(yard, function, *[{"level": level} for level in levels])
    yard.work()
    by_run = {
        row["run_id"]: row["id"] for row in rows("SELECT run_id, id FROM runyard.invocations")
    }
    in_order = [sent[place].invocation.id for place in (1, 4, 0, 3, 2)]
    assert [by_run[run] for run in yard.runs] == in_order
    assert rows("SELECT priority FROM runyard.invocations ORDER BY id") == [
        {"priority": priority} for priority in priorities
    ]


def test_a_singleton_skips_events_that_arrive_while_it_runs(yard: Yard) -> None:
    [first] = send(yard, "skipping", {"doc": 1})
    yard.work()
    second, other = send(yard, "skipping", {"doc": 1}, {"doc": 2})
    yard.work()
    assert (first.invocation.status, second.invocation.status, other.invocation.status) == (
        "sleeping",
        "skipped",
        "sleeping",
    )
    yard.advance("1m")
    [third] = send(yard, "skipping", {"doc": 1})
    yard.work()
    assert (first.invocation.status, third.invocation.status) == ("succeeded", "sleeping")


def test_a_singleton_can_cancel_the_open_invocation(yard: Yard) -> None:
    [first] = send(yard, "replacing", {"doc": 1})
    yard.work()
    [second] = send(yard, "replacing", {"doc": 1})
    yard.work()
    assert (first.invocation.status, second.invocation.status) == ("cancelled", "sleeping")


def test_a_singleton_that_replaces_waits_until_the_other_has_left_its_run(yard: Yard) -> None:
    [first] = send(yard, "replacing", {"doc": 1})
    [batch] = yard.claim("replacing")
    [second] = send(yard, "replacing", {"doc": 1})
    assert yard.claim("replacing") == []
    assert second.invocation.status == "queued"
    yard.execute("replacing", batch)
    yard.work()
    assert (first.invocation.status, second.invocation.status) == ("cancelled", "sleeping")


# --- timeouts and cancelling


def test_what_does_not_begin_in_time_is_cancelled(yard: Yard) -> None:
    first, second = send(yard, "late_start", {"n": 1}, {"n": 2})
    [batch] = yard.claim("late_start")
    yard.advance("61s")
    assert second.invocation.status == "cancelled"
    assert second.invocation.error is not None
    assert "timeout" in second.invocation.error["message"]
    yard.execute("late_start", batch)
    assert first.invocation.status == "cancelled"  # it was claimed, but did not begin either


def test_what_does_not_end_in_time_is_cancelled(yard: Yard) -> None:
    [sent] = send(yard, "late_end", {"n": 1})
    yard.advance("59s")
    assert sent.invocation.status == "sleeping"
    yard.advance("1s")
    assert sent.invocation.status == "cancelled"


def test_an_event_cancels_what_it_matches(yard: Yard) -> None:
    first, second = yard.send_all(
        [Event("cart/filled", {"cart": 1}), Event("cart/filled", {"cart": 2})]
    )
    yard.work()
    yard.send("cart/emptied", {"cart": 1, "sure": False})
    yard.work()
    assert first.invocation.status == "sleeping"
    yard.send("cart/emptied", {"cart": 1, "sure": True})
    yard.work()
    assert (first.invocation.status, second.invocation.status) == ("cancelled", "sleeping")


def test_an_invocation_that_is_cancelled_while_it_runs_leaves_the_run_at_the_next_step(
    yard: Yard,
) -> None:
    first, second = send(yard, "sleeper", {"n": 1}, {"n": 2})

    def cancelled(item: Any) -> str:
        with database.connection() as connection:
            connection.execute("SELECT runyard.cancel(%s)", (first.invocation.id,))
        return "worked"

    yard.stub("work", cancelled)
    yard.work()
    assert (first.invocation.status, second.invocation.status) == ("cancelled", "sleeping")


def test_rules_combine(yard: Yard) -> None:
    sent = send(
        yard,
        "combined",
        *[{"tenant": "a", "order": order, "level": order} for order in (1, 1, 2, 3, 4)],
        {"tenant": "b", "order": 9},
    )
    yard.work()
    assert Counter(each.invocation.status for each in sent) == {"succeeded": 4, "skipped": 2}
    reasons = sorted(
        each.invocation.error["message"].split(":")[0] for each in sent if each.invocation.error
    )
    assert reasons == ["idempotency", "rate limit"]


def test_new_keys_in_the_code_reach_queued_invocations(yard: Yard) -> None:
    sent = send(yard, "plain", {"tenant": 1}, {"tenant": 1}, {"tenant": 2})
    plain = registry.find("plain")
    assert plain is not None
    others = [function for function in registry.functions() if function is not plain]
    limited = replace(plain, flow=Flow(concurrency=(Concurrency(1, key="data.tenant"),)))
    with registry.use(limited, *others):
        registry.publish()
        [batch] = yard.claim("plain")
        assert len(in_batch(batch)) == 2
        yard.execute("plain", batch)
    registry.publish()
    yard.work()
    assert set(statuses(sent)) == {"succeeded"}


# --- events without the key


@pytest.mark.parametrize("data", [{}, {"user": None, "order": None, "doc": None}])
@pytest.mark.parametrize("function", ["rated", "once", "debounced"])
def test_events_without_the_key_pass_what_would_skip_or_merge_them(
    yard: Yard, function: str, data: dict[str, Any]
) -> None:
    sent = send(yard, function, data, data, data, data)
    yard.work()
    assert statuses(sent) == ["succeeded"] * 4


@pytest.mark.parametrize("function", ["skipping", "replacing"])
def test_a_singleton_ignores_events_without_the_key(yard: Yard, function: str) -> None:
    sent = send(yard, function, {}, {}, {"doc": None})
    yard.work()
    assert statuses(sent) == ["sleeping"] * 3


def test_events_without_the_key_share_a_limit_of_their_own(yard: Yard) -> None:
    send(yard, "limited", {}, {"tenant": None}, {}, {"tenant": ""})
    [batch] = yard.claim("limited")
    assert len(in_batch(batch)) == 3


def test_an_event_without_the_field_cancels_nothing(yard: Yard) -> None:
    sent = yard.send_all(
        [
            Event("cart/filled", {}),
            Event("cart/filled", {"cart": None}),
            Event("cart/filled", {"cart": 1}),
        ]
    )
    yard.work()
    yard.send_all(
        [Event("cart/emptied", {"sure": True}), Event("cart/emptied", {"sure": True, "cart": None})]
    )
    yard.work()
    assert statuses(sent) == ["sleeping"] * 3


@pytest.mark.parametrize("tenant", ["t0500 and a half", "zz"])
def test_a_free_lane_is_found_behind_many_blocked_ones(yard: Yard, tenant: str) -> None:
    send(yard, "throttled_by", *[{"tenant": f"t{n:04}"} for n in range(700)])
    yard.work()
    send(yard, "throttled_by", *[{"tenant": f"t{n:04}"} for n in range(700)])
    yard.work()
    [free] = send(yard, "throttled_by", {"tenant": tenant})
    yard.work()
    assert free.invocation.status == "succeeded"
    assert rows("SELECT count(*) AS n FROM runyard.invocations WHERE status = 'queued'") == [
        {"n": 700}
    ]


def test_a_launch_by_hand_respects_limits_and_leaves_the_rest_to_the_sensor(yard: Yard) -> None:
    limited = registry.find("limited")
    assert limited is not None
    events = rows_as_json([Event("limited/go", {"tenant": 1}) for _ in range(5)], target="limited")
    batch = batch_claims.claim_events(limited, events, "launch")
    assert batch is not None
    assert len(in_batch(batch)) == 2
    another = rows_as_json([Event("limited/go", {"tenant": 1})], target="limited")
    assert batch_claims.claim_events(limited, another, "launch") is None
    yard.execute("limited", batch)
    again = batch_claims.claim_replay(limited, batch)
    assert again is not None
    assert len(in_batch(again)) == 2
    yard.execute("limited", again)
    yard.work()
    assert rows("SELECT DISTINCT status FROM runyard.invocations") == [{"status": "succeeded"}]


def test_many_timeouts_are_applied_at_once(yard: Yard) -> None:
    sent = send(yard, "late_end", *[{"n": n} for n in range(1200)])
    yard.work()
    yard.advance("1m")
    assert Counter(statuses(sent)) == {"cancelled": 1200}


def test_an_invocation_shows_its_function_and_status(yard: Yard) -> None:
    [sent] = send(yard, "plain", {})
    assert repr(sent.invocation).startswith("Invocation(1, plain, queued")
