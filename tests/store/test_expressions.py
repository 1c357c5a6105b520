"""Expressions over events, evaluated by PostgreSQL."""

import json
from typing import Any

import pytest

from runyard.functions.flow_control import CancelOn
from runyard.store import database
from runyard.syntax.event_conditions import terms
from runyard.syntax.event_keys import parse_key, unless_false
from runyard.syntax.expressions import parse_expression
from tests.expressions import CONDITIONS, EVENT, FAILED, KEYS, OTHER, VALUES

NO_KEY = "\x1d"


def value(expression: str, *parameters: object) -> Any:
    """What PostgreSQL returns for an expression with parameters, which are given as JSON."""
    documents = [json.dumps(parameter) for parameter in parameters]
    with database.connection() as connection:
        row = connection.execute(f"SELECT {expression} AS value".encode(), documents).fetchone()
    assert row is not None
    return row["value"]


def met(paths: Any, sought: str, rest: Any) -> bool:
    """Whether the later event is found by an index entry, and fits the rest of its condition."""
    if value("runyard.match_value_v1(%s, %s)", OTHER, paths) != sought:
        return False
    return rest is None or value("runyard.cel_met_v1(%s, %s)", rest, {"async": OTHER})


def evaluated(text: str) -> Any:
    tree = json.dumps(parse_expression(text, "if"))
    scope = json.dumps({"event": EVENT, "async": OTHER})
    with database.connection() as connection:
        row = connection.execute(
            "SELECT runyard.cel_v1(%s, %s)::text AS value", [tree, scope]
        ).fetchone()
    assert row is not None
    return FAILED if row["value"] is None else json.loads(row["value"])


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_postgresql_comes_to_the_same_value(text: str, value: Any) -> None:
    assert evaluated(text) == value


@pytest.mark.parametrize(("text", "text_of_key"), KEYS, ids=[text for text, _ in KEYS])
def test_a_key_is_the_text_of_an_expression(text: str, text_of_key: str | None) -> None:
    keys = value("runyard.keys_v1(%s, %s)", EVENT, [parse_key(text, "key")])
    assert keys == [NO_KEY if text_of_key is None else text_of_key]


def test_paths_and_expressions_stand_side_by_side_among_the_keys() -> None:
    keys = [parse_key(text, "key") for text in ("data.total", "'a' + event.name", "id")]
    assert value("runyard.keys_v1(%s, %s)", EVENT, keys) == ["120", "ashop/sold", "01ABC"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("data.no", NO_KEY),
        ("data.yes", "true"),
        ("data.zero", "0"),
        ("data.missing", NO_KEY),
        ("event.data.total > 500", NO_KEY),
        ("event.data.empty + ''", ""),
    ],
)
def test_a_key_that_is_false_counts_as_none_where_it_is_to(text: str, key: str) -> None:
    assert value("runyard.keys_v1(%s, %s)", EVENT, [unless_false(parse_key(text, "key"))]) == [key]


@pytest.mark.parametrize(("text", "is_met"), CONDITIONS, ids=[text for text, _ in CONDITIONS])
class TestConditions:
    """A condition is met by the same events, whatever evaluates it."""

    def test_as_a_whole(self, text: str, is_met: bool) -> None:
        tree = parse_expression(text, "if")
        assert value("runyard.cel_met_v1(%s, %s)", tree, {"event": EVENT, "async": OTHER}) is is_met

    def test_of_a_wait(self, text: str, is_met: bool) -> None:
        known = terms(parse_expression(text, "if"), EVENT)
        if known is None:
            assert not is_met
            return
        paths, values, rest = known
        assert met(paths, value("runyard.match_values_v1(%s)", values), rest) is is_met

    def test_of_a_cancellation(self, text: str, is_met: bool) -> None:
        rule = CancelOn("shop/paid", condition=text).to_json()
        own = value("runyard.own_rule_v1(%s, %s)", rule, EVENT)
        if own is None:
            assert not is_met
            return
        assert met(own["match_paths"], own["match_value"], own["condition"]) is is_met


def test_what_postgresql_cannot_evaluate_has_failed() -> None:
    tree = ["call", "size", ["get", ["path", ["event"]], ["lit", 5]]]
    unknown = ["no operator", ["lit", 1], ["lit", 2]]
    assert value("runyard.cel_value_v1(%s, %s)", tree, {"event": EVENT}) == 0
    assert value("runyard.cel_met_v1(%s, %s)", unknown, {}) is False
    assert value("runyard.cel_met_v1(%s, %s)", ["<", ["lit", 1], ["lit", "a"]], {}) is False
