"""Every call of a text provider, with usage, cost and outcome; and the users' daily budgets."""

import math
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from resources.ai.answer_text import keepable
from resources.ai.generators import Generated, Prompt
from resources.settings import AiSettings
from runyard.errors import NonRetriable
from runyard.store import database

# gpt-4o-mini-2024-07-18, gemini-2.0-flash-001
_VERSION = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{3})$")
_NO_LIMIT = math.inf


class OverBudget(NonRetriable):
    """The user's budget of the day is used up, or cannot be enforced.

    It cannot be enforced where the price of the model is unknown.
    """


def price(model: str) -> tuple[float, float] | None:
    """US dollars for a million tokens of input and of output; None where unknown.

    Read from the table in AI_PRICES; AI_OTHER_PRICE is for models that it does not list.
    """
    settings = AiSettings.read()
    prices = _table(settings.ai_prices)
    name = model.removeprefix("models/")
    return prices.get(name) or prices.get(_VERSION.sub("", name)) or settings.ai_other_price


@lru_cache(maxsize=8)
def _table(path: Path) -> dict[str, tuple[float, float]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: (float(row["input"]), float(row["output"])) for name, row in table.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NonRetriable(
            f"the prices of models in {path} (AI_PRICES) cannot be read: {type(error).__name__}: "
            f"{error}; a model's table has numbers `input` and `output`"
        ) from None


def cost(generated: Generated) -> float | None:
    """The cost of a text in US dollars; None where the price of its model is unknown."""
    if generated.offline:
        return 0.0
    prices = price(generated.model)
    if prices is None:
        return None
    dollars = generated.prompt_tokens * prices[0] + generated.output_tokens * prices[1]
    return round(dollars / 1_000_000, 8)


def check_budget(user: str | None) -> None:
    """Raise `OverBudget` when a user has used up AI_DAILY_USD or AI_DAILY_TOKENS today (UTC).

    Concurrent calls may exceed the limit.
    """
    dollars, tokens = _limits()
    if user is None or dollars == tokens == _NO_LIMIT:
        return
    spent = _spent_today(user)
    for name, used, limit in (
        ("AI_DAILY_USD", spent["cost"], dollars),
        ("AI_DAILY_TOKENS", spent["tokens"], tokens),
    ):
        if used >= limit:
            raise OverBudget(
                f"user {user} has used {used:g} of the {limit:g} that {name} allows a day: wait "
                "until midnight UTC, or raise it"
            )


def check_price(user: str | None, model: str) -> None:
    """Raise `OverBudget` when AI_DAILY_USD applies to a user and the model's price is unknown.

    An unreadable table of prices is reported here as well, before anything is paid for.
    """
    known = price(model) is not None
    if user is not None and not known and _limits()[0] < _NO_LIMIT:
        raise OverBudget(
            f"AI_DAILY_USD limits what user {user} may spend, but the price of the model"
            f" {model} is unknown: add it to the table of prices (AI_PRICES), or state in"
            " AI_OTHER_PRICE what models without a price cost (0,0 for your own servers)"
        )


def _limits() -> tuple[float, float]:
    """US dollars and tokens that one user may use a day."""
    settings = AiSettings.read()
    dollars, tokens = settings.ai_daily_usd, settings.ai_daily_tokens
    return (
        _NO_LIMIT if dollars is None else dollars,
        _NO_LIMIT if tokens is None else tokens,
    )


def _spent_today(user: str) -> dict[str, float]:
    with database.connection() as connection:
        # by ai_calls_user
        row = connection.execute(
            """
            SELECT coalesce(sum(cost), 0)::float AS cost,
                coalesce(sum(prompt_tokens + output_tokens), 0)::float AS tokens
            FROM app.ai_calls
            WHERE user_id = %s AND at >= date_trunc('day', runyard.now(), 'UTC')""",
            (user,),
        ).fetchone()
    assert row is not None
    return {name: float(str(value)) for name, value in row.items()}


def record_call(
    prompt: Prompt, provider: str, model: str, seconds: float, outcome: Generated | Exception
) -> None:
    """Record a finished call, with the usage of its text, or with its error and what that cost."""
    row: dict[str, Any] = {
        "user": prompt.user,
        "purpose": prompt.purpose,
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
            """
            INSERT INTO app.ai_calls (at, user_id, purpose, provider, model, status, finish_reason,
                prompt_tokens, output_tokens, cost, seconds, error)
            VALUES (runyard.now(), %(user)s, %(purpose)s, %(provider)s, %(model)s, %(status)s,
                %(reason)s, %(prompt)s, %(output)s, %(cost)s, %(seconds)s, %(error)s)""",
            row,
        )
