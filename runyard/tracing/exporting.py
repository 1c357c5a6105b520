"""The spans of this process on their way to a collector: a queue, and a thread that empties it.

Spans wait in a queue of limited length, and none of what this process does waits for them. A
collector that is down, slow or wrong costs the spans and a warning now and then.
"""

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache

from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan

from runyard.syntax.export_options import EXPORT_SECONDS, ExportOptions, endpoint
from runyard.text.error_text import fit
from runyard.text.redaction import redact
from runyard.tracing.collector import Collector, why_not_taken
from runyard.tracing.encoding import encode_resource, encode_span, encode_spans
from runyard.tracing.spans import Span

# For a look-up of the collector's name, which cannot be interrupted, and the like.
_SPARE_SECONDS = 0.5
_WARN_SECONDS = 60.0
_LONGEST_NAME = 200
_FAILS = (
    "the collector at %s takes no traces (%s), and %d spans are lost: is it running, does it take"
    " OTLP over HTTP there, and are the headers of OTEL_EXPORTER_OTLP_HEADERS right?"
)
_IS_SLOW = (
    "the collector at %s takes traces too slowly, and %d spans are lost: give it more resources, or"
    " record fewer traces (OTEL_TRACES_SAMPLER)"
)
_log = logging.getLogger("runyard.traces")


class Exporter:
    """Takes the spans of this process, and exports them in a thread of its own.

    Attributes
    ----------
    warned_at
        When it was last said that spans are lost, by the monotonic clock; None if never.
    """

    def __init__(self) -> None:
        self.warned_at: float | None = None
        self._options = ExportOptions.from_environment(os.environ)
        self._resource = encode_resource(resource().attributes)
        self._queue: deque[bytes | ReadableSpan] = deque()
        self._flushes: list[threading.Event] = []
        self._changed = threading.Condition(threading.Lock())
        self._ends_at: float | None = None
        # Why the last export has failed.
        self._failure = ""
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="runyard-traces", daemon=True)
        self._thread.start()

    def record(self, span: Span) -> None:
        """Queue a span; when the queue is full, the oldest one is lost."""
        self.add(encode_span(span))

    def add(self, span: bytes | ReadableSpan) -> None:
        """Queue what `encode_span` returned, or a span of OpenTelemetry's."""
        with self._changed:
            if len(self._queue) >= self._options.queue:
                self._queue.popleft()
                self._lost += 1
            self._queue.append(span)
            if len(self._queue) in (1, self._options.batch):
                self._changed.notify()

    def flush(self, seconds: float = 30.0) -> bool:
        """Export all that is queued; return whether that was tried within so many seconds."""
        if not self._thread.is_alive():
            return False
        tried = threading.Event()
        with self._changed:
            self._flushes.append(tried)
            self._changed.notify()
        return tried.wait(seconds)

    def close(self, seconds: float = EXPORT_SECONDS) -> None:
        """Export what is left within so many seconds, and stop."""
        with self._changed:
            self._ends_at = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + _SPARE_SECONDS)
        self._lost += len(self._queue)
        self._queue.clear()
        if self._lost:
            self._warn()

    def _run(self) -> None:
        with Collector(self._options) as collector:
            is_over = False
            while not is_over:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._is_asked())
                    self._changed.wait_for(self._is_due, self._options.delay)
                    # Of what came in a burst, the rest waits for more.
                    is_burst = len(self._queue) >= self._options.batch and not self._is_asked()
                    is_over = self._ends_at is not None
                    flushes, self._flushes = self._flushes, []
                self._export(collector, self._options.batch if is_burst else 1)
                for tried in flushes:
                    tried.set()

    def _is_due(self) -> bool:
        return len(self._queue) >= self._options.batch or self._is_asked()

    def _is_asked(self) -> bool:
        """Whether somebody waits for the export of all that is queued."""
        return bool(self._flushes) or self._ends_at is not None

    def _export(self, collector: Collector, at_least: int) -> None:
        """Export what is queued, until fewer spans than so many are left."""
        while len(self._queue) >= at_least and not self._gives_up():
            with self._changed:
                count = min(len(self._queue), self._options.batch)
                spans = [self._queue.popleft() for _ in range(count)]
            self._failure = self._posted(collector, spans)
            if self._failure:
                with self._changed:
                    self._lost += count
            if self._lost and self._ends_at is None:
                self._warn_at_times()

    def _posted(self, collector: Collector, spans: Sequence[bytes | ReadableSpan]) -> str:
        """Post spans; return why they are lost, whatever goes wrong, or nothing."""
        try:
            collector.post(self._encoded(spans), self._left())
        except Exception as error:
            return why_not_taken(error)
        return ""

    def _encoded(self, spans: Sequence[bytes | ReadableSpan]) -> bytes:
        own = [span for span in spans if isinstance(span, bytes)]
        others = [span for span in spans if not isinstance(span, bytes)]
        # The bodies of several requests, one behind the other, are the body of one with all.
        body = [encode_spans(self._resource, own)] if own else []
        return b"".join((*body, *_encoded_spans_of_code(others)))

    def _gives_up(self) -> bool:
        """Whether the process ends, and nothing more is to be tried."""
        return self._ends_at is not None and (self._failure != "" or self._left() <= 0)

    def _left(self) -> float:
        """How many seconds an export may take."""
        ends_at = self._ends_at
        return EXPORT_SECONDS if ends_at is None else ends_at - time.monotonic()

    def _warn_at_times(self) -> None:
        now = time.monotonic()
        if self.warned_at is None or now - self.warned_at >= _WARN_SECONDS:
            self._warn()
            self.warned_at = now

    def _warn(self) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
        place = redact(endpoint(os.environ))
        if self._failure:
            _log.warning(_FAILS, place, self._failure, lost)
        else:
            _log.warning(_IS_SLOW, place, lost)


def _encoded_spans_of_code(spans: Sequence[ReadableSpan]) -> Iterator[bytes]:
    """Spans of OpenTelemetry's as bodies of requests; what cannot be encoded is left out alone."""
    if not spans:
        return
    try:
        yield trace_encoder.encode_spans(spans).SerializeToString()
    except Exception as error:
        if len(spans) == 1:
            _log.warning(
                "the span %s of the code cannot be encoded, and is lost: %s",
                ascii(fit(spans[0].name, _LONGEST_NAME)),
                type(error).__name__,
            )
            return
        middle = len(spans) // 2
        yield from _encoded_spans_of_code(spans[:middle])
        yield from _encoded_spans_of_code(spans[middle:])


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
    """Import what an exporter imports only when it is used, in a process that forks others.

    A child that is forked while a thread imports a module could not import it: the module is locked
    until that thread is done, and the child does not have it.
    """
    _shared_resource()


def close(seconds: float = EXPORT_SECONDS) -> None:
    """Close the exporter of this process, if there is one."""
    if _exporter is not None:
        _exporter.close(seconds)


def _after_fork() -> None:
    """Let a child make its own: threads and connections are not to be shared."""
    global _exporter, _lock
    _exporter, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def resource() -> Resource:
    """Return what names this process: `runyard`, unless the variables say something else."""
    return _shared_resource().merge(Resource({"process.pid": os.getpid()}))


@cache
def _shared_resource() -> Resource:
    """What names this process and those that it forks; it takes some milliseconds."""
    named = Resource.create()
    is_named = os.environ.get(OTEL_SERVICE_NAME) or (
        SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    )
    return named if is_named else named.merge(Resource({SERVICE_NAME: "runyard"}))
