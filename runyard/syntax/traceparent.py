"""The header `traceparent` of W3C Trace Context: a trace, one of its spans, and a flag."""

import re
from typing import NamedTuple

# Fields of later versions may follow, and are passed over.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_LENGTH = 512
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as others refer to it.

    Attributes
    ----------
    trace_id, span_id
        Numbers of 128 and 64 bits, not 0.
    sampled
        Whether the spans of the trace are recorded.
    """

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Return what a `traceparent` says; None for one that is missing or malformed.

    As the specification demands, a malformed one is ignored, and of a later version only the fields
    of version 00 count.
    """
    if not text or len(text) > _MAX_LENGTH:
        return None
    match = _TRACEPARENT.fullmatch(text)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED))
