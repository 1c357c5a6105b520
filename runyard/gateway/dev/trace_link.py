"""The link from an event or an invocation to its trace, where the pages of a tracing system are."""

from runyard.engine.invocation_traces import recorded_trace
from runyard.settings import settings
from runyard.syntax.trace_options import TRACE_ID
from runyard.tracing import recording


def trace_url(event_id: str, trace: str | None) -> str | None:
    """Return where the trace of an event is shown.

    None without `RUNYARD_TRACE_URL`, and for a trace that is not recorded. `trace` is the event's
    `traceparent`.
    """
    template = settings().trace_url
    if template is None or not recording.is_on():
        return None
    trace_id = recorded_trace(event_id, trace)
    return None if trace_id is None else template.replace(TRACE_ID, trace_id)
