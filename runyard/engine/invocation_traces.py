"""The spans of an invocation: its waits for a run, its runs, their steps, and itself as a whole.

::

    send order/placed           whoever sent the event
      ship                      the invocation, from its beginning to its end
        queued                  from when it was due to when a run began
        run ship                what one run did for it
          pack                  an attempt of a step

An event that came without a trace begins one, whose root is the invocation. The ids of all of them
but the steps follow from those of the event, the invocation and the run, so that nothing is stored.
"""

import json
import time
from dataclasses import dataclass

from runyard.engine.settlement import Outcome
from runyard.engine.status import FINAL
from runyard.store.queries import Row
from runyard.syntax.traceparent import TraceContext, parse_traceparent
from runyard.tracing import recording
from runyard.tracing.contexts import (
    child_of,
    span_id_of_invocation,
    span_id_of_run,
    trace_id_of_event,
)
from runyard.tracing.spans import Attributes, Kind, Span

# The errors of a run whose worker died or fell silent, and of one that its worker handed back.
LOST, STOPPED = "WorkerLost", "WorkerStopped"


@dataclass(slots=True)
class InvocationTrace:
    """An invocation in a run, as its spans refer to it.

    Attributes
    ----------
    parent
        The span that sent the event; None when the event came without one.
    invocation, run
        The spans of the invocation, and of this run of it.
    created, began
        When they began, in seconds since the epoch.
    about, more
        The attributes that all spans have, and those that only the run and the invocation have:
        encoding them is most of what a span costs.
    links
        The spans that sent the other events, of an invocation for several.
    """

    parent: TraceContext | None
    invocation: TraceContext
    run: TraceContext
    created: float
    began: float
    about: Attributes
    more: Attributes
    links: tuple[TraceContext, ...] = ()

    def new_span(self) -> TraceContext:
        """Return the context of a new span below that of the run."""
        return child_of(self.run) if self.run.sampled else self.run

    def record_step(
        self, step: str, context: TraceContext, start: float, end: float, tries: int, error: str
    ) -> None:
        """Record the span of an attempt of a step; `error` is the type of what it raised, or empty.

        `tries` counts the attempts of this step.
        """
        if context.sampled:
            about: Attributes = {"runyard.step": step, "runyard.step.attempt": tries}
            self._record(step, context, self.run, (start, end), about, error)

    def record_call(
        self, context: TraceContext, start: float, about: Attributes, error: str
    ) -> None:
        """Record the span of a request to an application, which ends now."""
        if context.sampled:
            self._record("POST", context, self.run, (start, time.time()), about, error, "client")

    def record_outcome(self, outcome: Outcome) -> None:
        """Record the span of the run, which is over for this invocation; if it ended, that too."""
        if not self.run.sampled:
            return
        name, now, error = str(self.about["runyard.function"]), time.time(), _error_type(outcome)
        about: Attributes = {**self.more, "runyard.outcome": outcome.status}
        self._record(f"run {name}", self.run, self.invocation, (self.began, now), about, error)
        if outcome.status in FINAL:
            about = {**about, "messaging.system": "runyard", "messaging.operation.type": "process"}
            times = self.created, now
            self._record(name, self.invocation, self.parent, times, about, error, "consumer")

    def record_wait(self, seconds: float) -> None:
        """Record the span of the time that it was due before the run began."""
        if self.run.sampled:
            times = self.began - seconds, self.began
            self._record("queued", child_of(self.invocation), self.invocation, times)

    def _record(
        self,
        name: str,
        context: TraceContext,
        parent: TraceContext | None,
        times: tuple[float, float],
        about: Attributes | None = None,
        error: str = "",
        kind: Kind = "internal",
    ) -> None:
        attributes = {**self.about, **(about or {})}
        links = self.links if kind == "consumer" else ()
        recording.record(Span(name, context, parent, *times, kind, attributes, error, links))


def begin_trace(row: Row, run_id: str) -> InvocationTrace:
    """Begin the trace of an invocation in a run, and record how long it waited for the run.

    `row` is the invocation's, from the statement `begin_invocations`: the database says how long
    ago things happened, and the clock of this process when that was.
    """
    trace = _trace(row, run_id)
    if row["starts"]:
        trace.record_wait(row["waited"])
    return trace


def record_lost_run(row: Row, error: str) -> None:
    """Record the span of a run whose lease was taken away, from `released_invocations`.

    `error` is the type of the error with which it ended, unless the row has another one.
    """
    why = json.dumps({"type": error}) if row["status"] != "cancelled" else None
    trace = _trace(row, row["run_id"])
    trace.record_outcome(Outcome(row["id"], row["status"], error=row["error"] or why))


def _trace(row: Row, run_id: str) -> InvocationTrace:
    """Return the trace of an invocation in a run, which may have begun in another process."""
    now = time.time()
    parent = parse_traceparent(row["trace"])
    trace_id, sampled = _trace_of(row["event_id"], parent)
    if not sampled:
        # Nobody refers to its spans: all that goes on is the trace, and that it is not recorded.
        any_span = TraceContext(trace_id, trace_id % 2**64 or 1, sampled=False)
        return InvocationTrace(parent, any_span, any_span, now, now, {}, {})
    others = (parse_traceparent(other["trace"]) for other in row.get("group", ()))
    return InvocationTrace(
        parent=parent,
        invocation=TraceContext(trace_id, span_id_of_invocation(row["id"]), sampled=True),
        run=TraceContext(trace_id, span_id_of_run(row["id"], run_id), sampled=True),
        created=now - max(0.0, row["age"]),
        began=now - row["lasted"],
        about={"runyard.function": row["function"], "runyard.invocation": row["id"]},
        more={
            "runyard.event.id": row["event_id"],
            "runyard.event.name": row["name"],
            "runyard.run": run_id,
            "runyard.attempt": row["attempt"],
        },
        links=tuple(other for other in others if other is not None),
    )


def recorded_trace(event_id: str, trace: str | None) -> str | None:
    """Return the id of the trace to which an event belongs; None if it is not recorded.

    `trace` is the event's `traceparent`.
    """
    trace_id, sampled = _trace_of(event_id, parse_traceparent(trace))
    return f"{trace_id:032x}" if sampled else None


def _trace_of(event_id: str, parent: TraceContext | None) -> tuple[int, bool]:
    """Return the id of an event's trace, and whether it is recorded."""
    trace_id = trace_id_of_event(event_id) if parent is None else parent.trace_id
    return trace_id, recording.samples(trace_id, parent)


def _error_type(outcome: Outcome) -> str:
    return "" if outcome.error is None else str(json.loads(outcome.error).get("type", ""))
