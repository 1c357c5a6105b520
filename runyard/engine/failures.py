"""Why an invocation left its batch, and what becomes of it."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runyard.engine.dispatch import Outcome
from runyard.errors import Cancelled
from runyard.functions.retry import Retry
from runyard.text.error_text import message_of, trace_of, type_of

_dice = random.Random()


@dataclass
class Failure:
    """An error of an invocation: the step, the op it ran in, how often the step was tried, and the wait before the next try (None: final)."""

    step: str
    op: str
    error: BaseException
    tries: int = 1
    delay: float | None = None
    shown: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, step: str, op: str, error: BaseException, tries: int, retry: Retry) -> "Failure":
        """Decide by the rules of the step what is to become of an error."""
        try:
            delay = retry.delay_after(error, tries, _dice)
        except Exception:  # an error that tells a time which is none, or that compares with nothing
            delay = None if tries >= retry.attempts else retry.delay(tries, _dice)
        return cls(step, op, error, tries, delay)

    @classmethod
    def from_json(cls, step: str, shown: dict[str, Any], tries: int) -> "Failure":
        """The failure as an earlier process of the same run kept it."""
        return cls(
            step,
            shown.get("op", "receive"),
            RuntimeError(f"{shown['type']}: {shown['message']}"),
            tries,
            shown.get("retry_in_seconds"),
            shown,
        )

    @property
    def status(self) -> str:
        """What the invocation is from now on: cancelled, failed, or queued for another try."""
        return (
            "cancelled"
            if isinstance(self.error, Cancelled)
            else "failed"
            if self.delay is None
            else "queued"
        )

    @property
    def text(self) -> str:
        """The error in a line for people: its type and what it says, `KeyError: 'card'`."""
        return described(self._shown())

    def outcome(self, invocation: int) -> Outcome:
        """What becomes of the invocation that failed so."""
        attempt = self.tries if self.status == "queued" else None
        delay = self.delay or 0.0
        return Outcome(invocation, self.status, delay, error=self.to_json(), attempt=attempt)

    def to_json(self) -> str:
        """The error as it is kept and shown: no secrets, bounded, and nothing that PostgreSQL cannot keep."""
        return json.dumps(self._shown())

    def _shown(self) -> dict[str, Any]:
        if not self.shown:
            self.shown = {
                "step": self.step,
                "op": self.op,
                "type": type_of(self.error),
                "message": message_of(self.error),
                "traceback": trace_of(self.error),
            }
            if self.delay is not None:
                self.shown["retry_in_seconds"] = round(self.delay, 3)
        return self.shown


def described(error: Mapping[str, Any]) -> str:
    """A kept error in a line for people: its type and what it says, each where there is one."""
    return (
        ": ".join(str(part) for part in (error.get("type"), error.get("message")) if part)
        or "no message"
    )
