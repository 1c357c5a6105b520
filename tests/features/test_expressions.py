"""Every option that takes an expression over events in place of a path or beside a filter."""

from collections import Counter
from typing import Any

import pytest

from runyard import Event
from runyard.functions import registry
from runyard.testing import Sent, Yard
from tests.features.sending import in_batch, seconds_to_start, send, statuses
from tests.tables import rows

SAME = {"tenant": "a", "region": "eu"}
OTHER = {"tenant": "a", "region": "us"}


def test_a_limit_holds_for_each_value_of_its_expression(yard: Yard) -> None:
    send(yard, "x_limited", SAME, SAME, OTHER)
    [batch] = yard.claim("x_limited")
    assert in_batch(batch) == [1, 3]
    assert yard.claim("x_limited") == []


def test_a_constant_is_one_key_for_all(yard: Yard) -> None:
    send(yard, "x_constant", {"n": 1}, {"n": 2})
    [batch] = yard.claim("x_constant")
    assert in_batch(batch) == [1]
    assert rows("SELECT DISTINCT keys FROM runyard.invocations") == [{"keys": ["openai"]}]


def test_a_throttle_counts_by_its_expression(yard: Yard) -> None:
    began = yard.now
    sent = send(yard, "x_throttled", SAME, SAME, OTHER)
    yard.work()
    yard.advance("61s")
    assert set(statuses(sent)) == {"succeeded"}
    at_once, later, beside = (
        seconds for seconds in seconds_to_start(began, [each.invocation.id for each in sent])
    )
    assert max(at_once, beside) < 30 < later


def test_a_rate_limit_and_an_idempotency_skip_by_their_expression(yard: Yard) -> None:
    rated = send(yard, "x_rated", SAME, SAME, OTHER)
    once = send(yard, "x_once", {"order": 1}, {"order": 1, "cart": 2}, {"cart": 1}, {"cart": 9})
    yard.work()
    assert statuses(rated) == ["succeeded", "skipped", "succeeded"]
    assert statuses(once) == ["succeeded", "skipped", "skipped", "succeeded"]


def test_events_for_which_the_expression_has_no_value_pass(yard: Yard) -> None:
    once = send(yard, "x_once", {}, {})
    yard.work()
    assert statuses(once) == ["succeeded", "succeeded"]


def test_a_debounce_merges_by_its_expression(yard: Yard) -> None:
    sent = send(yard, "x_debounced", SAME, SAME, OTHER)
    yard.advance("11s")
    assert statuses(sent) == ["skipped", "succeeded", "succeeded"]


def test_events_are_gathered_by_their_expression(yard: Yard) -> None:
    send(yard, "x_gathered", SAME, SAME, OTHER, SAME)
    [batch] = yard.claim("x_gathered")
    assert in_batch(batch) == [1, 2, 4]


@pytest.mark.parametrize(
    ("function", "one", "other", "found"),
    [
        ("x_single", {"doc": 1}, {"doc": 1}, {"sleeping": 1, "skipped": 1}),
        ("x_single", {"doc": 1}, {"doc": 2}, {"sleeping": 2}),
        ("x_single", {"doc": 1, "vip": True}, {"doc": 1, "vip": True}, {"sleeping": 2}),
        ("x_single_path", {"exclusive": True}, {"exclusive": True}, {"sleeping": 1, "skipped": 1}),
        ("x_single_path", {"exclusive": False}, {"exclusive": False}, {"sleeping": 2}),
    ],
)
def test_a_singleton_has_the_key_of_its_expression_and_none_for_false(
    yard: Yard, function: str, one: dict[str, Any], other: dict[str, Any], found: dict[str, int]
) -> None:
    sent = send(yard, function, one, other)
    yard.work()
    assert Counter(statuses(sent)) == found


def test_a_priority_is_the_value_of_its_expression_within_its_bounds(yard: Yard) -> None:
    send(yard, "x_ranked", {"plan": "free"}, {"plan": "paid"}, {})
    found = rows("SELECT priority FROM runyard.invocations ORDER BY id")
    assert [row["priority"] for row in found] == [-1, 600, -1]


@pytest.mark.parametrize(
    ("name", "data", "functions"),
    [
        ("sale/made", {"total": 101, "country": "CH"}, ["x_chosen"]),
        ("sale/made", {"total": 100, "country": "CH"}, []),
        ("sale/made", {"total": "many", "country": "CH"}, []),
        ("sale/made", {}, []),
        ("some/thing", {"any": "x"}, ["x_any"]),
        ("some/thing", {"any": "y"}, []),
    ],
)
def test_a_trigger_has_a_condition(
    yard: Yard, name: str, data: dict[str, Any], functions: list[str]
) -> None:
    assert [each.function for each in yard.send(name, data).invocations] == functions


def test_a_wildcard_alone_meets_no_internal_event(yard: Yard) -> None:
    for name in ("runyard/function.invoked", "inngest/function.failed", "mine/own"):
        rows(
            'INSERT INTO runyard.events (name, data) VALUES (%s, \'{"any": "x"}\') RETURNING id',
            name,
        )
    started = rows(
        "SELECT events.name FROM runyard.invocations JOIN runyard.events"
        " ON events.id = invocations.event_id WHERE function = 'x_any'"
    )
    assert started == [{"name": "mine/own"}]


def test_a_function_that_returns_catches_up_with_what_meets_its_condition(yard: Yard) -> None:
    rows("UPDATE runyard.functions SET active = false WHERE name = 'x_chosen' RETURNING name")
    yard.send_all([Event("sale/made", {"total": total, "country": "CH"}) for total in (50, 500)])
    rows("UPDATE runyard.functions SET active = true WHERE name = 'x_chosen' RETURNING name")
    registry.catch_up()
    started = rows(
        "SELECT data FROM runyard.invocations JOIN runyard.events"
        " ON events.id = invocations.event_id WHERE function = 'x_chosen'"
    )
    assert [row["data"]["total"] for row in started] == [500]


class TestCancelling:
    """A rule of `cancel_on` with a condition over both events."""

    def filled(self, yard: Yard, **data: object) -> Sent:
        sent = yard.send("basket/filled", data)
        yard.work()
        return sent

    def emptied(self, yard: Yard, **data: object) -> None:
        yard.send("basket/emptied", data)
        yard.work()

    def test_only_what_meets_it_is_cancelled(self, yard: Yard) -> None:
        one, other, small = (
            self.filled(yard, basket=basket, items=items)
            for basket, items in ((1, 5), (2, 5), (1, 1))
        )
        self.emptied(yard, basket=1.0, items=3)
        assert statuses([one, other, small]) == ["cancelled", "sleeping", "sleeping"]

    def test_null_equals_null(self, yard: Yard) -> None:
        without, other = self.filled(yard, items=5), self.filled(yard, basket=2, items=5)
        self.emptied(yard, items=3)
        assert statuses([without, other]) == ["cancelled", "sleeping"]

    def test_what_cannot_be_compared_cancels_nothing(self, yard: Yard) -> None:
        sent = self.filled(yard, basket=1, items="many")
        self.emptied(yard, basket=1, items=3)
        assert statuses([sent]) == ["sleeping"]

    def test_waits_are_found_by_the_values_that_are_equal(self, yard: Yard) -> None:
        self.filled(yard, basket=7, items=5)
        [wait] = rows(
            "SELECT match_paths, match_value, condition FROM runyard.waits WHERE kind = 'cancel'"
        )
        assert wait["match_paths"] == [["data", "basket"]]
        assert wait["match_value"] == "7"
        assert ["lit", 5] in wait["condition"][1]


class TestWaiting:
    """`wait_for_event` with a condition over both events."""

    def test_the_first_event_that_meets_it_is_the_result(self, yard: Yard) -> None:
        sent = yard.send("x_waiter/go", {"order": 1, "sum": 10})
        yard.work()
        for data in ({"order": 2, "sum": 50}, {"order": 1, "sum": 5}, {"order": 1, "sum": 10}):
            assert sent.invocation.status == "waiting"
            yard.send("reply/given", data)
            yard.work()
        assert sent.invocation.steps["answer"].output == {"order": 1, "sum": 10}

    def test_events_that_came_before_the_wait_count(self, yard: Yard) -> None:
        sent = yard.send("x_waiter/go", {"order": 1, "sum": 10})
        yard.send("reply/given", {"order": 1, "sum": 5})
        yard.send("reply/given", {"order": 1, "sum": 15})
        yard.work()
        assert sent.invocation.steps["answer"].output == {"order": 1, "sum": 15}

    def test_nothing_meets_what_cannot_be_compared(self, yard: Yard) -> None:
        sent = yard.send("x_waiter/go", {"order": 1, "sum": "ten"})
        yard.send("reply/given", {"order": 1, "sum": 15})
        yard.work()
        yard.advance("1h")
        assert sent.invocation.steps["answer"].output is None

    def test_null_equals_null(self, yard: Yard) -> None:
        sent = yard.send("x_waiter/go", {"sum": 10})
        yard.send("reply/given", {"order": None, "sum": 15})
        yard.work()
        assert sent.invocation.steps["answer"].output == {"order": None, "sum": 15}
