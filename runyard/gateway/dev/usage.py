"""What steps that call language models have used: found in their results by a convention.

A result, or an object that is one of its fields, has the name of the `model`, the numbers of
`input_tokens` and `output_tokens`, and possibly `cost_usd`. The answers of Gemini, OpenAI's and
Anthropic's APIs are understood as they are, with their names for the same things.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

_MODEL = ("model", "modelVersion")
_INPUT = ("input_tokens", "prompt_tokens", "promptTokenCount")
_OUTPUT = ("output_tokens", "completion_tokens", "candidatesTokenCount")
_COST = ("cost_usd", "cost")
# Where the counts are, if not beside the name of the model.
_NESTED = ("usage", "usageMetadata")
_MAX_FIELDS = 50
_MAX_NAME = 100
# No model reads or writes more; larger numbers are something else.
_MAX_TOKENS = 10**12


@dataclass(frozen=True)
class Usage:
    """The usage of a call, or of several.

    Attributes
    ----------
    model
        The model's name; empty for several.
    cost_usd
        In US dollars; None where it is unknown.
    calls
        The number of calls.
    unpriced
        How many of them have no known cost.
    """

    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    calls: int = 1
    unpriced: int = 0


def usage_of(result: object) -> Usage | None:
    """The usage in a step's result; None if there is none."""
    if not isinstance(result, Mapping):
        return None
    fields = islice(result.values(), _MAX_FIELDS)
    objects = [result, *(value for value in fields if isinstance(value, Mapping))]
    return next((usage for value in objects if (usage := _read(value)) is not None), None)


def total(usages: Iterable[Usage]) -> Usage | None:
    """The usage of several calls together; None if there are none."""
    calls = list(usages)
    if not calls:
        return None
    models = {call.model for call in calls}
    prices = [call.cost_usd for call in calls if call.cost_usd is not None]
    return Usage(
        model=models.pop() if len(models) == 1 else "",
        input_tokens=sum(call.input_tokens for call in calls),
        output_tokens=sum(call.output_tokens for call in calls),
        cost_usd=math.fsum(prices) if prices else None,
        calls=len(calls),
        unpriced=len(calls) - len(prices),
    )


def dollars(amount: float) -> str:
    """An amount in US dollars: `$12.30`, `$0.00042`."""
    if amount >= 1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.6f}".rstrip("0") if amount >= 1e-6 else "less than $0.000001"


def _read(source: Mapping[str, Any]) -> Usage | None:
    model = next((source[name] for name in _MODEL if isinstance(source.get(name), str)), None)
    if not model:
        return None
    nested = [source[name] for name in _NESTED if isinstance(source.get(name), Mapping)]
    places = [source, *nested]
    read, written = _number(places, _INPUT), _number(places, _OUTPUT)
    if read is None and written is None:
        return None
    cost = _number(places, _COST)
    return Usage(
        model=model[:_MAX_NAME],
        input_tokens=int(read or 0),
        output_tokens=int(written or 0),
        cost_usd=cost,
        unpriced=int(cost is None),
    )


def _number(places: Iterable[Mapping[str, Any]], names: Iterable[str]) -> float | None:
    """The first sensible number under one of these names."""
    for name in names:
        for place in places:
            value = place.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if 0 <= value < _MAX_TOKENS:
                return float(value)
    return None
