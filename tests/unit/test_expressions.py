"""Expressions over events, evaluated in Python."""

import time
from typing import Any

import pytest

from runyard.errors import InvalidOption
from runyard.syntax.expression_values import Failed, is_met, value_of
from runyard.syntax.expressions import MAX_LENGTH, parse_expression, roots
from tests.expressions import EVENT, FAILED, OTHER, VALUES, WRONG

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


@pytest.mark.parametrize(
    "unit", ["(", "!", "-", "a.", "'a'+", "[", "a?", "1||", "\\", "'", "event."]
)
def test_the_worst_text_is_refused_in_time_that_grows_with_its_length(unit: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidOption):
        parse_expression(unit * (MAX_LENGTH // len(unit)), "if")
    assert time.process_time() - started < 1
