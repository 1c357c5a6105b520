"""Which span the running code belongs to, and the ids of spans that several processes refer to.

Ids that follow from those of an event, an invocation or a run need not be stored: every process
comes to the same, and so to the same decision whether a trace is sampled.
"""

import random
import sys
from contextvars import ContextVar
from hashlib import blake2b

from runyard.syntax.traceparent import TraceContext

# The `traceparent` with which the request came that is being handled.
incoming: ContextVar[TraceContext | None] = ContextVar("incoming", default=None)
_TRACE_BYTES, _SPAN_BYTES = 16, 8


def current_context() -> TraceContext | None:
    """Return the span that the running code belongs to, if any.

    That is OpenTelemetry's current span, where the process uses it, or the span that the request
    names.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is not None:
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            return TraceContext(span.trace_id, span.span_id, bool(span.trace_flags.sampled))
    return incoming.get()


def child_of(parent: TraceContext) -> TraceContext:
    """Return the context of a new span below another one."""
    return TraceContext(parent.trace_id, random.getrandbits(64) or 1, parent.sampled)


def trace_id_of_event(event_id: str) -> int:
    """Return the id of the trace of an event that came without one."""
    return _hash(f"event {event_id}", _TRACE_BYTES)


def span_id_of_invocation(invocation: int) -> int:
    """Return the id of the span from an invocation's beginning to its end."""
    return _hash(f"invocation {invocation}", _SPAN_BYTES)


def span_id_of_run(invocation: int, run_id: str) -> int:
    """Return the id of the span of what a run does for an invocation."""
    return _hash(f"invocation {invocation} run {run_id}", _SPAN_BYTES)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest()) or 1
