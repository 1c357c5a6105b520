"""Whether spans are recorded, and what they are handed to.

A span is recorded at its end, by the process that did the thing. Nothing is recorded, and
OpenTelemetry is not imported, unless `RUNYARD_TRACES` says so.
"""

import os
import sys
from functools import cache
from types import ModuleType

from runyard.settings import settings
from runyard.syntax.export_options import EXPORT_SECONDS
from runyard.syntax.trace_options import Sampler
from runyard.syntax.traceparent import TraceContext
from runyard.tracing.spans import Span


def is_on() -> bool:
    """Return whether traces are recorded at all."""
    return settings().traces == "otlp"


def load() -> None:
    """Import OpenTelemetry, if traces are recorded, before this process forks others.

    That takes half a second, which its children need not spend again.
    """
    if is_on():
        _exporting().prepare()
        _code_spans()


def samples(trace_id: int, parent: TraceContext | None) -> bool:
    """Return whether a trace is recorded; only to be asked when traces are on."""
    return sampler().samples(trace_id, parent)


def record(span: Span) -> None:
    """Hand a span over to be exported, if its trace is sampled; this never waits."""
    if span.context.sampled:
        _exporting().exporter().record(span)


def enter(context: TraceContext) -> object:
    """Make a span that of the running code, for the spans of others and for what it sends.

    Returns what `leave` takes, in the same thread or task.
    """
    return _code_spans().enter(context)


def leave(token: object) -> None:
    """Return to the span before `enter`."""
    _code_spans().leave(token)


def end_recording(seconds: float = EXPORT_SECONDS) -> None:
    """Export what is left before the process ends; this takes half a second more at most."""
    if "runyard.tracing.exporting" in sys.modules:
        _exporting().close(seconds)


@cache
def sampler() -> Sampler:
    """Return what decides which traces are recorded, as the variables of this process say."""
    return Sampler.from_environment(os.environ)


@cache
def _exporting() -> ModuleType:
    """The module that imports what exporting needs."""
    from runyard.tracing import exporting

    return exporting


@cache
def _code_spans() -> ModuleType:
    """The module that imports OpenTelemetry for the code of steps."""
    from runyard.tracing import code_spans

    return code_spans
