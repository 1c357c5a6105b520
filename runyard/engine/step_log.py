"""The log of a step: the first lines that it prints and logs for an invocation.

A step writes to the log of the item at hand, which a context variable holds: it is the same in an
`async` step, in what that awaits, and in threads that are given a copy of the context.
"""

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from logging import LogRecord
from types import MappingProxyType

from runyard.errors import interrupts
from runyard.text.error_text import fit
from runyard.text.redaction import redactor
from runyard.text.safe_cuts import MARGIN
from runyard.text.storable import storable

MAX_LINES = 100
MAX_CHARACTERS = 16 * 1024
MAX_LINE = 2_000
# Of a call for many items, each of which gets the log.
MAX_SHARED_LINES = 20
MAX_SHARED_CHARACTERS = 2 * 1024
_MAX_TRACE_LINES = 40
_MAX_LEVEL = 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class LogRow:
    """A log as it is stored: its lines as JSON, and how many more there were."""

    invocation_id: int
    attempt: int
    started_at: float
    lines: str
    dropped: int


class StepLog:
    """What one call of a step has printed and logged so far.

    There is one for each item, most of which stay empty: what is not passed to it begins as a
    default of the class.

    Parameters
    ----------
    attempts
        The attempt of each invocation that the call is for.
    run_id
        The run. Dagster repeats what is logged to it, with the run's id before the message.
    lock
        Held while lines are added or read.
    on_change
        Called when there are unsaved lines and were none before.
    """

    # Whether there are lines that have not been saved, and whether others have been dropped since.
    changed = False
    has_dropped = False
    _lines: Sequence[tuple[float, str, str]] = ()
    _unended: Mapping[str, str] = MappingProxyType({})
    _characters = 0
    _dropped = 0
    _record: LogRecord | None = None
    _message = ""

    def __init__(
        self,
        attempts: Mapping[int, int],
        run_id: str,
        lock: AbstractContextManager[object],
        on_change: Callable[["StepLog"], None],
    ) -> None:
        self.attempts = attempts
        self._run_id = run_id
        self._lock = lock
        self._on_change = on_change

    def write(self, stream: str, text: str) -> None:
        """Add what is written to a stream, which may be less than a line or more."""
        with self._lock:
            *lines, rest = (self._unended.get(stream, "") + text).split("\n")
            for line in lines:
                self._add(stream, line.removesuffix("\r"))
            if self._is_full():
                self.has_dropped = True
            else:
                self._note_change()
            self._unended = {**self._unended, stream: _visible(rest)[: MAX_LINE + MARGIN]}

    def add_record(self, record: LogRecord) -> None:
        """Add a log record, unless it is the last one once more."""
        if record is self._record:
            return
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[0] is not None:
                trace = "".join(traceback.format_exception(*record.exc_info)).splitlines()
                message = "\n".join([message, *trace[-_MAX_TRACE_LINES:]])
        except interrupts():
            raise
        except BaseException:  # whoever handles the record reports it
            return
        with self._lock:
            if self._run_id in message and message.endswith(self._message) and self._message:
                return
            self._record, self._message = record, message
            level = storable(record.levelname.lower())[:_MAX_LEVEL]
            for line in message.split("\n"):
                self._add(level, line)

    def rows(self) -> list[LogRow]:
        """The log as it is stored: a row for each invocation; none while it is empty."""
        clean = redactor()
        with self._lock:
            self.changed = self.has_dropped = False
            lines = list(self._lines)
            unended = [
                (time.time(), stream, _COLOUR.sub("", text))
                for stream, text in self._unended.items()
                if text
            ]
            dropped = self._dropped
        lines += unended[: max(0, MAX_LINES - len(lines))]
        if not lines:
            return []
        stored = json.dumps([[at, level, fit(text, MAX_LINE, clean)] for at, level, text in lines])
        return [
            LogRow(invocation, attempt, lines[0][0], stored, dropped)
            for invocation, attempt in self.attempts.items()
        ]

    def _add(self, level: str, line: str) -> None:
        if self._is_full():
            self._dropped += 1
            self.has_dropped = True
            if self._dropped == 1:  # so that whoever watches sees that the log is not whole
                self._note_change()
            return
        text = _COLOUR.sub("", _visible(line))[: MAX_LINE + MARGIN]
        self._lines = [*self._lines, (time.time(), level, text)]
        self._characters += min(len(text), MAX_LINE)
        self._note_change()

    def _is_full(self) -> bool:
        shared = len(self.attempts) > 1
        most_lines, most_characters = (
            (MAX_SHARED_LINES, MAX_SHARED_CHARACTERS) if shared else (MAX_LINES, MAX_CHARACTERS)
        )
        return len(self._lines) >= most_lines or self._characters >= most_characters

    def _note_change(self) -> None:
        if not self.changed:
            self.changed = True
            self._on_change(self)


# The log of what the running code works on.
current: ContextVar[StepLog | None] = ContextVar("current", default=None)


def _visible(line: str) -> str:
    """What a terminal would show of a line that is written again and again, as a progress bar."""
    return line.rpartition("\r")[2]
