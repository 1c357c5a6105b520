"""Every call of a text provider: what it used, what it cost, how it ended; and what a user may still spend today (UTC)."""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from resources.generators import Generated, Prompt
from runyard.errors import NonRetriable
from runyard.store import database


class OverBudget(NonRetriable):
    """Seen by whoever asks for a text: the user's budget of the day is used up."""


@cache
def prices() -> dict[str, dict[str, float]]:
    """US dollars for a million tokens by model, `input` and `output`: the table in AI_PRICES, or `config/ai_prices.toml` of the project."""
    path = Path(os.environ.get("AI_PRICES") or Path(__file__).resolve().parent.parent / "config" / "ai_prices.toml")
    found: dict[str, dict[str, float]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def cost(generated: Generated) -> float | None:
    """What a text has cost in US dollars; None where the table has no price of its model."""
    if generated.offline:
        return 0.0
    price = prices().get(generated.model)
    return None if price is None else round((generated.prompt_tokens * price["input"] + generated.output_tokens * price["output"]) / 1_000_000, 8)


def check_budget(user: str | None) -> None:
    """Raise `OverBudget` when a user has spent today what AI_DAILY_USD or AI_DAILY_TOKENS allow. Calls that run at the same time may go over it."""
    dollars, tokens = float(os.environ.get("AI_DAILY_USD") or "inf"), float(os.environ.get("AI_DAILY_TOKENS") or "inf")
    if user is None or (dollars == float("inf") and tokens == float("inf")):
        return
    spent = _spent_today(user)
    for name, used, limit in (("AI_DAILY_USD", spent["cost"], dollars), ("AI_DAILY_TOKENS", spent["tokens"], tokens)):
        if used >= limit:
            raise OverBudget(f"user {user} has used {used:g} of the {limit:g} that {name} allows a day: wait until midnight UTC, or raise it")


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


def keep_call(asked: Prompt, provider: str, model: str, seconds: float, outcome: Generated | Exception) -> None:
    """Keep a call that has ended: with its text's usage, or with its error."""
    row: dict[str, Any] = {"user": asked.user, "purpose": asked.purpose, "provider": provider, "model": model, "seconds": seconds}
    if isinstance(outcome, Generated):
        row |= {"status": "ok", "reason": outcome.finish_reason, "prompt": outcome.prompt_tokens, "output": outcome.output_tokens, "cost": outcome.cost, "error": None}
    else:
        row |= {"status": type(outcome).__name__.lower(), "reason": None, "prompt": 0, "output": 0, "cost": None, "error": str(outcome)[:500]}
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO app.ai_calls (at, user_id, purpose, provider, model, status, finish_reason, prompt_tokens, output_tokens, cost, seconds, error) VALUES"
            " (runyard.now(), %(user)s, %(purpose)s, %(provider)s, %(model)s, %(status)s, %(reason)s, %(prompt)s, %(output)s, %(cost)s, %(seconds)s, %(error)s)",
            row,
        )
