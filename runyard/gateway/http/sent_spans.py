"""The spans of requests that send events: each is the parent of what its events start."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runyard.syntax.traceparent import TraceContext
from runyard.tracing import recording
from runyard.tracing.contexts import child_of, current_context, trace_id_of_event
from runyard.tracing.spans import Span

Row = dict[str, Any]


@dataclass(frozen=True)
class SentSpans:
    """The spans of a request, until its events are stored; none if traces are off."""

    spans: Sequence[Span] = ()

    def end(self, error: BaseException | None = None) -> None:
        """Record them as ended now."""
        now, kind = time.time(), "" if error is None else type(error).__name__
        for span in self.spans:
            recording.record(replace(span, end=now, error=kind))


def begin_sending(rows: Sequence[Row]) -> SentSpans:
    """Begin the spans of a request that sends these events, and name them in their rows.

    A request that belongs to a trace has one span, for all of its events. Otherwise each event
    begins a trace of its own, and has a span if that is sampled.
    """
    if not rows or not recording.is_on():
        return SentSpans()
    parent = current_context()
    if parent is None:
        return SentSpans([span for row in rows if (span := _begin_trace(row)) is not None])
    if not recording.samples(parent.trace_id, parent):
        return SentSpans()
    span = _span_of(rows, child_of(parent._replace(sampled=True)), parent)
    for row in rows:
        row["trace"] = str(span.context)
    return SentSpans([span])


def _begin_trace(row: Row) -> Span | None:
    trace_id = trace_id_of_event(row["ulid"])
    if not recording.samples(trace_id, None):
        return None
    span = _span_of([row], child_of(TraceContext(trace_id, 1, sampled=True)), None)
    row["trace"] = str(span.context)
    return span


def _span_of(rows: Sequence[Row], context: TraceContext, parent: TraceContext | None) -> Span:
    now = time.time()
    about: dict[str, str | int] = {
        "messaging.system": "runyard",
        "messaging.operation.type": "send",
        "messaging.destination.name": rows[0]["name"],
    }
    if len(rows) == 1:
        about["runyard.event.id"] = rows[0]["ulid"]
    else:
        about["messaging.batch.message_count"] = len(rows)
    return Span(f"send {rows[0]['name']}", context, parent, now, now, "producer", about)
