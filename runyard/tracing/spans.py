"""Spans, and whether they are recorded.

A span is recorded at its end, by the process that did the thing. Nothing is recorded, and
OpenTelemetry is not imported, unless `RUNYARD_TRACES` says so.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from runyard.settings import settings
from runyard.syntax.trace_options import Sampler
from runyard.syntax.traceparent import TraceContext

if TYPE_CHECKING:
    from runyard.tracing.exporting import Exporter

Kind = Literal["internal", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int]


@dataclass(frozen=True)
class Span:
    """Something that was done, and when.

    Attributes
    ----------
    name
        What it is called in the trace.
    context, parent
        The span itself, and the one that it is part of; None for the root of a trace.
    start, end
        In seconds since the epoch.
    attributes
        What it was about: ids and names, never what events and steps hold.
    error
        The type of the error with which it ended; empty when it succeeded.
    links
        Spans of other traces that led to it.
    """

    name: str
    context: TraceContext
    parent: TraceContext | None
    start: float
    end: float
    kind: Kind = "internal"
    attributes: Attributes = field(default_factory=dict[str, str | int])
    error: str = ""
    links: Sequence[TraceContext] = ()


def is_on() -> bool:
    """Return whether traces are recorded at all."""
    return settings().traces == "otlp"


def samples(trace_id: int, parent: TraceContext | None) -> bool:
    """Return whether a trace is recorded; only to be asked when traces are on."""
    return _sampler().samples(trace_id, parent)


def record(span: Span) -> None:
    """Hand a span over to be exported, if its trace is sampled; this never waits."""
    if span.context.sampled:
        _exporter().record(span)


@contextmanager
def entered(context: TraceContext) -> Iterator[None]:
    """Make a span that of the running code, for the spans of others and for what it sends."""
    with _exporter().entered(context):
        yield


def end_recording() -> None:
    """Export what is left before the process ends; this takes two seconds at most."""
    if "runyard.tracing.exporting" in sys.modules:
        from runyard.tracing import exporting

        exporting.close()


@cache
def _sampler() -> Sampler:
    return Sampler.from_environment(os.environ)


def _exporter() -> "Exporter":
    from runyard.tracing import exporting

    return exporting.exporter()
