"""OpenTelemetry in the code of steps: the span that it finds, and the spans that it records."""

from contextvars import ContextVar
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags
from typing_extensions import override

from runyard.syntax.traceparent import TraceContext
from runyard.tracing.exporting import exporter, resource

_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class _Unrecorded(NonRecordingSpan):
    """The span of whatever is running now and is not recorded: most steps never ask which."""

    @override
    def get_span_context(self) -> SpanContext:
        context = _unrecorded.get()
        return INVALID_SPAN_CONTEXT if context is None else _span_context(context)


_unrecorded: ContextVar[TraceContext | None] = ContextVar("unrecorded", default=None)
_WITH_UNRECORDED = trace.set_span_in_context(_Unrecorded(INVALID_SPAN_CONTEXT), contexts.Context())
_is_provided = False


class _Queued(SpanProcessor):
    """Exports the spans of the code with those of this process."""

    @override
    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            exporter().add(span)

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return exporter().flush(timeout_millis / 1000)


def enter(context: TraceContext) -> object:
    """Make a span OpenTelemetry's current one; returns what `leave` takes."""
    if not _is_provided:
        _provide()
    if context.sampled:
        span = NonRecordingSpan(_span_context(context))
        return contexts.attach(trace.set_span_in_context(span, contexts.Context()))
    _unrecorded.set(context)
    return contexts.attach(_WITH_UNRECORDED)


def leave(token: Any) -> None:
    """Return to the span before `enter`."""
    contexts.detach(token)


def _provide() -> None:
    """Record the spans of the code too, unless that has set a provider of its own.

    Only in a process that runs steps: its parent, which forks others later, has none.
    """
    global _is_provided
    _is_provided = True
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        provider.add_span_processor(_Queued())
        trace.set_tracer_provider(provider)


def _span_context(context: TraceContext) -> SpanContext:
    flags = _SAMPLED if context.sampled else _NOT_SAMPLED
    return SpanContext(context.trace_id, context.span_id, is_remote=False, trace_flags=flags)
