"""Every call of a text provider: what it used, what it cost, how it ended; and what a user may still spend today (UTC)."""

import math
import os
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from resources.ai.answer_text import keepable
from resources.ai.generators import Generated, Prompt
from runyard.errors import NonRetriable
from runyard.store import database

_PRICES = Path(__file__).resolve().parents[2] / "config" / "ai_prices.toml"
# gpt-4o-mini-2024-07-18, gemini-2.0-flash-001
_VERSION = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{3})$")
_NO_LIMIT = math.inf


class OverBudget(NonRetriable):
    """Seen by whoever asks for a text: the user's budget of the day is used up, or cannot be kept.

    It cannot where nobody knows what the model costs.
    """


def price(model: str) -> tuple[float, float] | None:
    """US dollars for a million tokens of input and of output; None where nobody knows.

    From the table in AI_PRICES, or `config/ai_prices.toml` of the project; AI_OTHER_PRICE is
    for models that it does not have.
    """
    table = _table(Path(os.environ.get("AI_PRICES") or _PRICES))
    name = model.removeprefix("models/")
    return table.get(name) or table.get(_VERSION.sub("", name)) or _other_price()


@lru_cache(maxsize=8)
def _table(path: Path) -> dict[str, tuple[float, float]]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: (float(row["input"]), float(row["output"])) for name, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NonRetriable(
            f"the prices of models in {path} (AI_PRICES) cannot be read: {type(error).__name__}: {error}; a model's table has numbers `input` and `output`"
        ) from None


def _other_price() -> tuple[float, float] | None:
    stated = os.environ.get("AI_OTHER_PRICE")
    if not stated:
        return None
    try:
        into, out = (float(part) for part in stated.split(","))
    except ValueError:
        into, out = -1.0, -1.0
    if not (0 <= into < _NO_LIMIT and 0 <= out < _NO_LIMIT):
        raise NonRetriable(
            "AI_OTHER_PRICE is not two prices, of input and of output, in US dollars for a million tokens: 0.30,2.50"
        )
    return into, out


def cost(generated: Generated) -> float | None:
    """What a text has cost in US dollars; None where nobody knows the price of its model."""
    if generated.offline:
        return 0.0
    prices = price(generated.model)
    if prices is None:
        return None
    dollars = generated.prompt_tokens * prices[0] + generated.output_tokens * prices[1]
    return round(dollars / 1_000_000, 8)


def check_budget(user: str | None) -> None:
    """Raise `OverBudget` when a user has spent today what AI_DAILY_USD or AI_DAILY_TOKENS allow.

    Calls that run at the same time may go over it.
    """
    dollars, tokens = _limit("AI_DAILY_USD"), _limit("AI_DAILY_TOKENS")
    if user is None or dollars == tokens == _NO_LIMIT:
        return
    spent = _spent_today(user)
    for name, used, limit in (
        ("AI_DAILY_USD", spent["cost"], dollars),
        ("AI_DAILY_TOKENS", spent["tokens"], tokens),
    ):
        if used >= limit:
            raise OverBudget(
                f"user {user} has used {used:g} of the {limit:g} that {name} allows a day: wait until midnight UTC, or raise it"
            )


def check_price(user: str | None, model: str) -> None:
    """Raise `OverBudget` when AI_DAILY_USD is to hold a user back, and the model has no price.

    A table of prices that cannot be read is found here too, before anything is paid for.
    """
    known = price(model) is not None
    if user is not None and not known and _limit("AI_DAILY_USD") < _NO_LIMIT:
        raise OverBudget(
            f"AI_DAILY_USD limits what user {user} may spend, but nobody knows what the model"
            f" {model} costs: add it to the table of prices (AI_PRICES), or state in"
            " AI_OTHER_PRICE what models without a price cost (0,0 for your own servers)"
        )


def _limit(variable: str) -> float:
    try:
        limit = float(os.environ.get(variable) or _NO_LIMIT)
    except ValueError:
        limit = math.nan
    if math.isnan(limit):
        raise NonRetriable(f"{variable} is not a number: {os.environ[variable]}")
    return limit


def _spent_today(user: str) -> dict[str, float]:
    with database.connection() as connection:
        # by ai_calls_user
        row = connection.execute(
            "SELECT coalesce(sum(cost), 0)::float AS cost, coalesce(sum(prompt_tokens + output_tokens), 0)::float AS tokens FROM app.ai_calls"
            " WHERE user_id = %s AND at >= date_trunc('day', runyard.now(), 'UTC')",
            (user,),
        ).fetchone()
    assert row is not None
    return {name: float(str(value)) for name, value in row.items()}


def keep_call(
    asked: Prompt, provider: str, model: str, seconds: float, outcome: Generated | Exception
) -> None:
    """Keep a call that has ended: with its text's usage, or with its error and what it cost."""
    row: dict[str, Any] = {
        "user": asked.user,
        "purpose": asked.purpose,
        "provider": provider,
        "model": model,
        "seconds": seconds,
    }
    paid = outcome if isinstance(outcome, Generated) else getattr(outcome, "paid", None)
    if isinstance(paid, Generated):
        row |= {"reason": paid.finish_reason, "cost": cost(paid)}
        row |= {"prompt": paid.prompt_tokens, "output": paid.output_tokens}
    else:
        row |= {"reason": None, "cost": None, "prompt": 0, "output": 0}
    if isinstance(outcome, Generated):
        row |= {"status": "ok", "error": None}
    else:
        kind = ConnectionError if isinstance(outcome, ConnectionError) else type(outcome)
        row |= {"status": kind.__name__.lower(), "error": keepable(str(outcome))[:500]}
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO app.ai_calls (at, user_id, purpose, provider, model, status, finish_reason, prompt_tokens, output_tokens, cost, seconds, error) VALUES"
            " (runyard.now(), %(user)s, %(purpose)s, %(provider)s, %(model)s, %(status)s, %(reason)s, %(prompt)s, %(output)s, %(cost)s, %(seconds)s, %(error)s)",
            row,
        )
