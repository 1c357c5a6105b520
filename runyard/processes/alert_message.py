"""The text of an alert, and the JSON that webhooks get."""

import json
import math
import re
import socket
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from runyard.dagster_adapter.failed_runs import FailedJob
from runyard.dagster_adapter.links import to_function, to_invocation, to_run
from runyard.engine.alert_ledger import MOST_LATEST, FailedFunction
from runyard.settings import settings
from runyard.text.error_text import fit

Failed = FailedFunction | FailedJob

# What `runyard alerts test` says has failed: a function cannot have this name.
TEST = "a test"
_MOST_SHOWN = 20
_MOST_ERROR = 300
_EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
# An error may hold what somebody has typed: it must not call everybody in a channel.
_MENTION = re.compile(r"@(?=channel|here|everyone|all\b)")


def subject(failed: Sequence[Failed]) -> str:
    """The alert in a line."""
    names = ", ".join(each.name for each in failed[:3])
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"Runyard ({settings().environment}): failures of {names}{more}"


def text(failed: Sequence[Failed], now: datetime) -> str:
    """The alert as text: a paragraph with a link for each function and job."""
    paragraphs = [f"Runyard ({settings().environment})"]
    paragraphs += [f"{_sentence(each, now)}\n{_link(each)}" for each in failed[:_MOST_SHOWN]]
    if len(failed) > _MOST_SHOWN:
        paragraphs.append(f"and failures of {len(failed) - _MOST_SHOWN} more functions or jobs")
    return "\n".join(paragraphs)


def as_json(message: str, failed: Sequence[Failed]) -> bytes:
    """The body of a webhook: `text` for Slack and all that take its JSON, and the single fields."""
    shown = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body: dict[str, Any] = {
        "text": _MENTION.sub("@\u200b", shown),
        "environment": settings().environment,
        "failures": [_fields(each) for each in failed[:_MOST_SHOWN]],
    }
    return json.dumps(body).encode()


def _sentence(failed: Failed, now: datetime) -> str:
    what = f"the job {failed.name}" if isinstance(failed, FailedJob) else failed.name
    error = _error(failed)
    if failed.count == 1:
        return f"{what} failed{': ' + error if error else ''}"
    is_first = isinstance(failed, FailedJob) or failed.count <= MOST_LATEST
    first = f", {'the first' if is_first else 'one of the latest'}: {error}" if error else ""
    return f"{failed.count:,} failures of {what} in the last {_period(failed, now)}{first}"


def _period(failed: Failed, now: datetime) -> str:
    minutes = math.ceil((now - failed.since).total_seconds() / 60)
    if minutes <= 1:
        return "minute"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def _error(failed: Failed) -> str:
    return fit(" ".join(failed.error.split()), _MOST_ERROR)


def _link(failed: Failed) -> str:
    if isinstance(failed, FailedJob):
        path = to_run(failed.run_id)
    elif failed.invocation is not None:
        path = to_invocation(failed.invocation)
    else:
        path = "/dev" if failed.name == TEST else to_function(failed.name)
    return f"{_base()}{path}"


def _base() -> str:
    if settings().public_url:
        return settings().public_url.rstrip("/")
    host = settings().host
    host = socket.gethostname() if host in _EVERY_INTERFACE else host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings().port}"


def _fields(failed: Failed) -> dict[str, Any]:
    is_job = isinstance(failed, FailedJob)
    return {
        "job" if is_job else "function": failed.name,
        "count": failed.count,
        "since": failed.since.isoformat(),
        "error": _error(failed),
        "url": _link(failed),
    }
