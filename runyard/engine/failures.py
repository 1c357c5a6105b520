"""Why an invocation left its batch, and what becomes of it."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runyard.engine.settlement import Outcome
from runyard.errors import Cancelled
from runyard.functions.retry import Retry
from runyard.text.error_text import message_of, trace_of, type_of

_dice = random.Random()


@dataclass
class Failure:
    """An error of an invocation.

    Attributes
    ----------
    step, op
        The step that raised it, and the op in which it ran.
    error
        The error.
    tries
        How often the step has been tried.
    delay
        Seconds until the next attempt; None when the failure is final.
    shown
        The error as it is stored, with secrets removed.
    """

    step: str
    op: str
    error: BaseException
    tries: int = 1
    delay: float | None = None
    shown: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, step: str, op: str, error: BaseException, tries: int, retry: Retry) -> "Failure":
        """Decide by retry rules what becomes of an error."""
        try:
            delay = retry.delay_after(error, tries, _dice)
        except Exception:  # such as a RetryAfter subclass whose time is not one
            delay = None if tries >= retry.attempts else retry.delay(tries, _dice)
        return cls(step, op, error, tries, delay)

    @classmethod
    def from_json(cls, step: str, shown: dict[str, Any], tries: int) -> "Failure":
        """Return a failure that an earlier process of the same run has recorded."""
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
        """The invocation's new status: cancelled, failed, or queued for another attempt."""
        if isinstance(self.error, Cancelled):
            return "cancelled"
        return "failed" if self.delay is None else "queued"

    @property
    def text(self) -> str:
        """The error's type and message in one line: `KeyError: 'card'`."""
        return described(self._shown())

    def outcome(self, invocation: int) -> Outcome:
        """Return the outcome of the invocation that failed."""
        attempt = self.tries if self.status == "queued" else None
        delay = self.delay or 0.0
        return Outcome(invocation, self.status, delay, error=self.to_json(), attempt=attempt)

    def to_json(self) -> str:
        """Return the error as it is stored: without secrets, of bounded size, storable."""
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
    """Return the type and the message of a stored error in one line."""
    parts = [str(error[key]) for key in ("type", "message") if error.get(key)]
    return ": ".join(parts) or "no message"
