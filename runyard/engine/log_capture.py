"""Copies what steps print and log to the log of the step at hand (`runyard.engine.step_log`).

While a step runs, `sys.stdout` and `sys.stderr` are objects that write to the streams they replace,
and log records are made by a factory that calls the one before it. Handlers, levels and files stay
as the program has set them up: only records that a logger lets through are kept.
"""

import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any, TextIO

from runyard.engine.step_log import current

_lock = threading.Lock()
_steps = 0  # how many are running


class _Stream:
    """A stream that copies what is written to it by a step."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream = stream
        self._name = name

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        log = current.get()
        # What a handler writes has been kept as a record.
        if log is not None and sys._getframe(1).f_globals.get("__name__") != logging.__name__:
            log.write(self._name, text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _RecordFactory:
    """Makes log records as another factory does, and keeps those of a step."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*args, **named)
        log = current.get()
        if log is not None:
            log.add_record(record)
        return record


def start() -> None:
    """Begin to copy, unless another step of this process has begun already."""
    global _steps
    with _lock:
        _steps += 1
        if _steps > 1:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None:
                setattr(sys, name, _Stream(stream, name))
        logging.setLogRecordFactory(_RecordFactory(logging.getLogRecordFactory()))


def stop() -> None:
    """Undo what `start` did when no step is left, except what has been replaced meanwhile."""
    global _steps
    with _lock:
        _steps -= 1
        if _steps:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Stream):
                setattr(sys, name, stream.stream)
        factory = logging.getLogRecordFactory()
        if isinstance(factory, _RecordFactory):
            logging.setLogRecordFactory(factory.make)
