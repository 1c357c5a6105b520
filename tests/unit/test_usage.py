"""The usage of language models in the results of steps."""

from typing import Any

import pytest

from runyard.gateway.dev.usage import Usage, dollars, total, usage_of

OPENAI = {"model": "gpt", "usage": {"prompt_tokens": 12, "completion_tokens": 34}}
ANTHROPIC = {"model": "claude", "usage": {"input_tokens": 12, "output_tokens": 34}}
GEMINI = {
    "modelVersion": "gemini",
    "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 34},
}


@pytest.mark.parametrize("answer", [OPENAI, ANTHROPIC, GEMINI])
def test_the_answers_of_providers_are_understood(answer: dict[str, Any]) -> None:
    found = usage_of(answer)
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.cost_usd) == (12, 34, None)


def test_the_convention_names_model_tokens_and_cost() -> None:
    result = {"model": "m", "input_tokens": 5, "output_tokens": 6, "cost_usd": 0.25, "text": "x"}
    assert usage_of(result) == Usage("m", 5, 6, 0.25)


def test_an_object_in_a_field_of_the_result_counts() -> None:
    found = usage_of({"prompt": "p/1", "generated": {"model": "m", "prompt_tokens": 5, "cost": 0}})
    assert found == Usage("m", 5, 0, 0.0)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        [OPENAI],
        {},
        {"model": "m"},
        {"model": 7, "input_tokens": 1},
        {"model": "", "input_tokens": 1},
        {"input_tokens": 1},
        {"model": "m", "input_tokens": True},
        {"model": "m", "input_tokens": -1},
        {"model": "m", "input_tokens": "12"},
        {"model": "m", "input_tokens": 10**400},
        {"a": {"b": OPENAI}},
    ],
)
def test_anything_else_has_no_usage(result: object) -> None:
    assert usage_of(result) is None


def test_a_total_says_how_many_calls_have_no_known_cost() -> None:
    usages = [Usage("m", 1, 2, 0.5), Usage("m", 3, 4, None, unpriced=1)]
    assert total(usages) == Usage("m", 4, 6, 0.5, calls=2, unpriced=1)


def test_a_total_of_several_models_names_none() -> None:
    found = total([Usage("m", 1, 2, 0.5), Usage("n", 3, 4, 0.25)])
    assert found == Usage("", 4, 6, 0.75, calls=2)


def test_there_is_no_total_of_nothing() -> None:
    assert total([]) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (1234.5, "$1,234.50"), (0.00042, "$0.00042"), (1e-8, "less than $0.000001")],
)
def test_an_amount_is_shown_with_what_there_is_of_it(amount: float, text: str) -> None:
    assert dollars(amount) == text
