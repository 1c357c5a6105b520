"""The spans of calls to applications, and of the steps that they bring; none if traces are off."""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from runyard.apps.answers import Answer
from runyard.apps.calls import Caller
from runyard.engine.invocation_traces import InvocationTrace
from runyard.syntax.traceparent import TraceContext
from runyard.text.storable import storable
from runyard.tracing.contexts import child_of

_NO_ANSWER = "no_answer"


async def ask(
    caller: Caller,
    trace: InvocationTrace | None,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
) -> Answer:
    """Call an application with `traceparent`, so that what it does there is part of the trace."""
    if trace is None:
        return await caller.ask("POST", url, body, headers)
    span, start = child_of(trace.run), time.time()
    answer = await caller.ask("POST", url, body, {**headers, "traceparent": str(span)})
    about: dict[str, str | int] = {
        "http.request.method": "POST",
        "server.address": urlsplit(url).hostname or "",
    }
    if answer.status:
        about["http.response.status_code"] = answer.status
    error = str(answer.status) if answer.status >= 400 else "" if answer.status else _NO_ANSWER
    trace.record_call(span, start, about, error)
    return answer


def record_step(
    trace: InvocationTrace | None,
    name: str,
    start: float,
    tries: int,
    error: Mapping[str, Any] | None,
    span: TraceContext | None = None,
    end: float | None = None,
) -> None:
    """Record an attempt of a step, which ends now or at `end`, with its error as the protocol has.

    `span` is its span, if something refers to it already.
    """
    if trace is not None:
        kind = "" if error is None else storable(str(error.get("name", "Error")))[:200]
        end = time.time() if end is None else end
        trace.record_step(name, span or child_of(trace.run), start, end, tries, kind)
