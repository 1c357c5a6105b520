"""Expressions over events, evaluated in Python."""

import time
from typing import Any

import pytest

from runyard.errors import InvalidOption
from runyard.syntax.event_conditions import bound, split, terms
from runyard.syntax.event_keys import event_expression, parse_key, text_of
from runyard.syntax.expression_values import Failed, is_met, value_of
from runyard.syntax.expressions import MAX_LENGTH, parse_expression, roots
from tests.expressions import CONDITIONS, EVENT, FAILED, OTHER, VALUES, WRONG

SCOPE = {"event": EVENT, "async": OTHER}


def evaluated(text: str) -> Any:
    try:
        return value_of(parse_expression(text, "if"), SCOPE)
    except Failed:
        return FAILED


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_an_expression_comes_to_its_value(text: str, value: Any) -> None:
    result = evaluated(text)
    assert (type(result), result) == (type(value), value) or result == value != bool(value)


@pytest.mark.parametrize(("text", "reason"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_what_is_no_expression_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidOption) as error:
        parse_expression(text, "if of shop-sold")
    assert reason in str(error.value)
    assert str(error.value).startswith("if of shop-sold: ")


def test_a_condition_is_met_by_true_alone() -> None:
    assert is_met(parse_expression("event.data.total > 100", "if"), SCOPE)


@pytest.mark.parametrize("text", ["event.data.total", "1 < 'a'", "event.data.missing", "'true'"])
def test_a_condition_is_not_met_by_anything_else(text: str) -> None:
    assert not is_met(parse_expression(text, "if"), SCOPE)


def test_an_expression_says_which_events_it_is_about() -> None:
    tree = parse_expression("[event.data.a].exists(x, x == async.data['b'])", "if")
    assert roots(tree) == {"event", "async"}


@pytest.mark.parametrize(("text", "met"), CONDITIONS, ids=[text for text, _ in CONDITIONS])
def test_a_condition_with_the_values_of_the_own_event_is_met_by_the_same_events(
    text: str, met: bool
) -> None:
    tree = parse_expression(text, "if")
    assert is_met(tree, SCOPE) is met
    assert is_met(bound(tree, EVENT), {"async": OTHER}) is met


def test_a_condition_is_split_into_what_an_index_finds_and_the_rest() -> None:
    tree = parse_expression(
        "async.data.a == event.data.total && async.data.b > 5 && 'x' == async.data.c", "if"
    )
    pairs, rest = split(tree)
    assert [path for path, _ in pairs] == [["data", "a"], ["data", "c"]]
    assert rest == ["and", [">", ["path", ["async", "data", "b"]], ["lit", 5]], ["lit", True]]
    assert terms(tree, EVENT) == ([["data", "a"], ["data", "c"]], [120, "x"], rest)


def test_what_is_under_an_or_is_not_split() -> None:
    tree = parse_expression("async.data.a == 1 || async.data.b == 2", "if")
    assert split(tree) == ([], tree)


def test_values_of_the_own_event_that_look_like_trees_stay_values() -> None:
    tree = parse_expression("event.data.list == async.data.list", "if")
    own = {"data": {"list": ["path", ["event", "id"]]}}
    once = bound(tree, own)
    assert bound(once, own) == once
    assert roots(once) == {"async"}
    assert is_met(once, {"async": {"data": own["data"]}})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("data.tenant", "data.tenant"),
        ("event.data.tenant", "data.tenant"),
        ("'a' + event.data.b", "'a' + event.data.b"),
    ],
)
def test_a_key_is_shown_as_it_was_written(text: str, written: str) -> None:
    assert text_of(parse_key(text, "key")) == written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tenant", "'tenant' is not a path into the event"),
        ("event.dta.tenant", "'event.dta.tenant' is not a path into the event"),
        ("data.a + 'b'", "a path begins with event or async"),
        ("event.data.a + async.data.b", "there is only one event here"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidOption) as error:
        parse_key(text, "Concurrency(key=...)")
    assert reason in str(error.value)
    assert str(error.value).startswith("Concurrency(key=...): ")


def test_an_expression_over_one_event_has_no_second_one() -> None:
    with pytest.raises(InvalidOption, match="the condition of a/b: there is only one event here"):
        event_expression("async.data.a == 1", "the condition of a/b")


@pytest.mark.parametrize(
    "unit", ["(", "!", "-", "a.", "'a'+", "[", "a?", "1||", "\\", "'", "event."]
)
def test_the_worst_text_is_refused_in_time_that_grows_with_its_length(unit: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidOption):
        parse_expression(unit * (MAX_LENGTH // len(unit)), "if")
    assert time.process_time() - started < 1
