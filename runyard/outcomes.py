"""Why an invocation left its batch, and what becomes of it."""

import json
import random
import traceback
from dataclasses import dataclass, field
from typing import Any

from runyard.errors import Cancelled
from runyard.redaction import redact
from runyard.retry import Retry

_TRACEBACK_LINES = 40
_dice = random.Random()


@dataclass
class Failure:
    """An error of an invocation: the step, the op it ran in, how often the step was tried, and the wait before the next try (None: final)."""

    step: str
    op: str
    error: Exception
    tries: int = 1
    delay: float | None = None
    shown: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, step: str, op: str, error: Exception, tries: int, retry: Retry) -> "Failure":
        """Decide by the rules of the step what is to become of an error."""
        return cls(step, op, error, tries, retry.delay_after(error, tries, _dice))

    @classmethod
    def from_json(cls, step: str, shown: dict[str, Any], tries: int) -> "Failure":
        """The failure as an earlier process of the same run kept it."""
        return cls(step, shown.get("op", "receive"), RuntimeError(f"{shown['type']}: {shown['message']}"), tries, shown.get("retry_in_seconds"), shown)

    @property
    def status(self) -> str:
        """What the invocation is from now on: cancelled, failed, or queued for another try."""
        return "cancelled" if isinstance(self.error, Cancelled) else "failed" if self.delay is None else "queued"

    def to_json(self) -> str:
        """The error as it is kept and shown: no secrets, a bounded traceback."""
        if not self.shown:
            trace = redact("".join(traceback.format_exception(self.error))).splitlines()[-_TRACEBACK_LINES:]
            self.shown = {
                "step": self.step,
                "op": self.op,
                "type": type(self.error).__name__,
                "message": redact(str(self.error)),
                "traceback": "\n".join(trace),
            }
            if self.delay is not None:
                self.shown["retry_in_seconds"] = round(self.delay, 3)
        return json.dumps(self.shown).replace("\\u0000", "\\ufffd")
