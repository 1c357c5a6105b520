"""Log records and lines of output as JSON, one object a line, for whoever collects logs."""

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

from runyard.text.redaction import redact

# What the running code works on: `function`, `run`, `step`, and, of one invocation alone, also
# `event`, `invocation` and `attempt`.
working_on: ContextVar[Mapping[str, object] | None] = ContextVar("working_on", default=None)


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON, with what the code works on and secrets redacted."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        request = getattr(record, "request", "-")
        if request != "-":
            line["request"] = request
        line.update(working_on.get() or {})
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def log_as_json(level: str) -> None:
    """Write what this process logs to standard error as lines of JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def as_json_line(process: str, line: str) -> str:
    """A line of a process's output as JSON: one that is JSON already gets the process's name."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "message" not in fields:
        fields = {
            "time": _time(datetime.now(UTC).timestamp()),
            "level": "info",
            "logger": process,
            "message": line,
        }
    return json.dumps({"process": process, **fields})


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
