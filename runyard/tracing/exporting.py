"""The spans of this process on their way to the collector: a queue, and a thread that empties it.

This module and `collector` alone import OpenTelemetry. Spans wait in a queue of limited length, and
none of what this process does waits for them.
"""

import atexit
import logging
import os
import threading
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_SERVICE_NAME,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
)
from opentelemetry.trace.status import Status, StatusCode
from typing_extensions import override

from runyard.syntax.trace_options import endpoint
from runyard.syntax.traceparent import TraceContext
from runyard.text.redaction import redact
from runyard.tracing.collector import EXPORT_SECONDS, Delivery, in_time
from runyard.tracing.spans import Span

# A batch of hundreds of invocations ends with thousands of spans at once.
_QUEUE = 16_384
# A request costs as much as the encoding of some fifty spans.
_SPANS_OF_A_REQUEST = 2_048
_DELAY_MILLIS = 1_000.0
_ENDLESS = "the collector at %s does not end its answer: the last spans of this process are lost"
_KINDS = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SCOPE = InstrumentationScope("runyard")
_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
# Spans that others are part of: those of the batches in progress.
_REMEMBERED = 4096
_log = logging.getLogger("runyard.traces")
_queue_log = logging.getLogger("opentelemetry.sdk._shared_internal")


class _Unrecorded(NonRecordingSpan):
    """The span of whatever is running now and is not recorded: most steps never ask which."""

    @override
    def get_span_context(self) -> SpanContext:
        context = _unrecorded.get()
        return INVALID_SPAN_CONTEXT if context is None else _referred(context)


_unrecorded: ContextVar[TraceContext | None] = ContextVar("unrecorded", default=None)
_WITH_UNRECORDED = trace.set_span_in_context(_Unrecorded(INVALID_SPAN_CONTEXT), contexts.Context())


class Exporter:
    """The spans of this process on their way to the collector.

    Attributes
    ----------
    processor
        The queue in front of the collector.
    delivery
        What empties it.
    is_provided
        Whether it records the spans of the code too.
    """

    def __init__(self) -> None:
        self.delivery = Delivery()
        # Before the processor's own filter, which lets hardly any record through.
        _queue_log.setLevel(logging.WARNING)
        _queue_log.filters.insert(0, self.delivery.count_overflow)
        is_set = os.environ.get
        # A request must not be larger than the queue.
        is_sized = is_set(OTEL_BSP_MAX_EXPORT_BATCH_SIZE) or is_set(OTEL_BSP_MAX_QUEUE_SIZE)
        self.processor = BatchSpanProcessor(
            self.delivery,
            max_queue_size=None if is_set(OTEL_BSP_MAX_QUEUE_SIZE) else _QUEUE,
            max_export_batch_size=None if is_sized else _SPANS_OF_A_REQUEST,
            schedule_delay_millis=None if is_set(OTEL_BSP_SCHEDULE_DELAY) else _DELAY_MILLIS,
        )
        self._resource = _resource()
        self.is_provided = False

    def record(self, span: Span) -> None:
        """Queue a span; when the queue is full, the oldest one is dropped."""
        error = span.error
        self.processor.on_end(
            ReadableSpan(
                name=_shown(span.name),
                context=_span_context(span.context, is_remote=False),
                parent=None if span.parent is None else _referred(span.parent),
                resource=self._resource,
                attributes={**span.attributes, "error.type": error} if error else span.attributes,
                links=[Link(_referred(link)) for link in span.links],
                kind=_KINDS[span.kind],
                status=_ERROR if error else _UNSET,
                start_time=_nanoseconds(span.start),
                end_time=_nanoseconds(max(span.start, span.end)),
                instrumentation_scope=_SCOPE,
            )
        )

    def provide(self) -> None:
        """Record the spans of the code too, unless that has set a provider of its own.

        Only in a process that runs steps: its parent, which forks others later, has none.
        """
        self.is_provided = True
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
            provider.add_span_processor(self.processor)
            trace.set_tracer_provider(provider)

    def close(self) -> None:
        """Export what is left, in the time that one export may take, and stop."""
        self.delivery.end_in(EXPORT_SECONDS)
        if not in_time(self.processor.shutdown):
            _log.warning(_ENDLESS, redact(endpoint(os.environ)))


_exporter: Exporter | None = None
_lock = threading.Lock()


def exporter() -> Exporter:
    """Return the exporter of this process, which is made at the first call."""
    global _exporter
    if _exporter is not None:
        return _exporter
    with _lock:
        if _exporter is None:
            _exporter = Exporter()
            atexit.register(close)
        return _exporter


def prepare() -> None:
    """Import what an exporter needs: by itself it does so when it is made, and when it is used.

    A child that is forked meanwhile could not import any of it: a module is locked until the thread
    that imports it is done, and a child does not have that thread.
    """
    Delivery().shutdown()
    _resource()
    import_module("netrc")  # by the first request


def enter(context: TraceContext) -> object:
    """Make a span OpenTelemetry's current one; returns what `leave` takes."""
    if _exporter is None or not _exporter.is_provided:
        exporter().provide()
    if context.sampled:
        return contexts.attach(_with_span(context))
    _unrecorded.set(context)
    return contexts.attach(_WITH_UNRECORDED)


def leave(token: Any) -> None:
    """Return to the span before `enter`."""
    contexts.detach(token)


def close() -> None:
    """Close the exporter of this process, if there is one."""
    if _exporter is not None:
        _exporter.close()


def _after_fork() -> None:
    """Let a child make its own: connections are not to be shared."""
    global _exporter, _lock
    _exporter, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class _Resource(Resource):
    """A resource that is hashed once: the encoder does it for every span, of all attributes."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    @override
    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    @override
    def __hash__(self) -> int:
        return self._hash


def _resource() -> Resource:
    """Return what names this process: `runyard`, unless the variables say something else."""
    resource = Resource.create({"process.pid": os.getpid()})
    is_named = os.environ.get(OTEL_SERVICE_NAME) or (
        SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    )
    if not is_named:
        resource = resource.merge(Resource({SERVICE_NAME: "runyard"}))
    return _Resource(resource)


@lru_cache(maxsize=1024)
def _shown(name: str) -> str:
    """Return a name without secrets; there are few, and looking for secrets takes long."""
    return redact(name)


def _with_span(context: TraceContext) -> contexts.Context:
    span = NonRecordingSpan(_span_context(context, is_remote=False))
    return trace.set_span_in_context(span, contexts.Context())


@lru_cache(maxsize=_REMEMBERED)
def _referred(context: TraceContext) -> SpanContext:
    return _span_context(context, is_remote=True)


def _span_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    flags = _SAMPLED if context.sampled else _NOT_SAMPLED
    return SpanContext(context.trace_id, context.span_id, is_remote, flags)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
