"""Log records and lines of output as JSON, one object a line, for whoever collects logs.

A line has a bounded length, as whoever collects it would cut a longer one, and its level be lost.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from runyard.text.error_text import fit
from runyard.text.process_output import show_in_output
from runyard.text.redaction import redact
from runyard.text.safe_cuts import MARGIN, cut_after

# Says what the running code works on: `function`, `run`, `step`, and, of one invocation alone, also
# `event`, `invocation` and `attempt`. Most steps log nothing, and it is not asked.
working_on: ContextVar[Callable[[], Mapping[str, object]]] = ContextVar("working_on", default=dict)
# Longer output without a line break is cut by the log of the stack.
LONGEST_LINE = 64 * 1024
_MOST_OF_MESSAGE = 20_000
_MOST_OF_TRACEBACK = 30_000
_TRACEBACK = "Traceback (most recent call last):"
_log = logging.getLogger("runyard")


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON, with what the code works on and secrets redacted."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _beginning(record.getMessage()),
        }
        request = getattr(record, "request", "-")
        if request != "-":
            line["request"] = request
        line.update(working_on.get()())
        if record.exc_info:
            line["traceback"] = _end(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def _beginning(text: str) -> str:
    """The beginning of a text, without secrets, as far as its JSON is short enough."""
    if len(text) <= _MOST_OF_MESSAGE and _size(clean := redact(text)) <= _MOST_OF_MESSAGE:
        return clean
    most = _MOST_OF_MESSAGE
    while _size(clean := fit(text, most)) > _MOST_OF_MESSAGE:
        most //= 2
    return clean


def _end(text: str) -> str:
    """The end of a text, where a traceback has its error, as `_beginning` does."""
    if len(text) <= _MOST_OF_TRACEBACK and _size(clean := redact(text)) <= _MOST_OF_TRACEBACK:
        return clean
    most = min(len(text), _MOST_OF_TRACEBACK)
    text = text[-most - 2 * MARGIN :]
    while _size(clean := redact(text[cut_after(text, len(text) - most) :])) > _MOST_OF_TRACEBACK:
        most //= 2
    return f"... {clean}"


def _size(text: str) -> int:
    return len(json.dumps(text))


def log_as_json(level: str) -> None:
    """Write what this process logs to standard error as lines of JSON.

    So are warnings, and errors that end the process or a thread. While Dagster sends the output of
    a run to a file, the lines are in that of the process too.
    """
    handler, formatter = logging.StreamHandler(), JsonFormatter()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    show_in_output(logging.getLogger(), formatter)
    logging.captureWarnings(True)
    sys.excepthook = _log_the_end
    threading.excepthook = _log_the_end_of_thread


def _log_the_end(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, Exception):
        _log.critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _log_the_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and issubclass(ended.exc_type, Exception):
        _log.error(
            "uncaught %s in thread %s",
            ended.exc_type.__name__,
            ended.thread.name if ended.thread is not None else "",
            exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback),
        )


def as_records(lines: Iterable[str]) -> list[str]:
    """Put lines of a process's output together that belong together.

    These are indented lines with the one before, as PostgreSQL writes them, and tracebacks.
    """
    records: list[str] = []
    in_traceback = False
    for line in lines:
        is_indented = line.startswith((" ", "\t"))
        if records and (is_indented or in_traceback):
            records[-1] += f"\n{line}"
            in_traceback = in_traceback and is_indented
        elif line:
            records.append(line)
            in_traceback = line.startswith(_TRACEBACK)
    return records


def json_line(logger: str, message: str, level: str = "info") -> str:
    """A line of JSON for a message that is no log record."""
    return json.dumps(_fields(logger, message, level))


def as_json_line(process: str, record: str) -> str:
    """A record of a process's output as JSON: one that is JSON already gets the process's name.

    There is a line for any output, as whoever writes the line writes those of all processes.
    """
    line = _fields(process, record, "info")
    try:
        fields = json.loads(record, parse_constant=_reject)
        if isinstance(fields, dict) and "message" in fields:
            return json.dumps({**line, **fields, "process": process})
    except (ValueError, RecursionError):  # no JSON, or nested too deeply to be read
        pass
    return json.dumps({**line, "process": process})


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _fields(logger: str, message: str, level: str) -> dict[str, object]:
    time = _time(datetime.now(UTC).timestamp())
    return {"time": time, "level": level, "logger": logger, "message": message}


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
