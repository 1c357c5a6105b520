"""A span: something that was done, as it is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runyard.syntax.traceparent import TraceContext

Kind = Literal["internal", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int]


@dataclass(slots=True)
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
