"""Delivers spans to a collector by OTLP over HTTP, each export within two seconds.

A collector that is down, slow or wrong costs the spans and a warning now and then. However it
answers, an export ends, and little of the answer is read.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from typing_extensions import override

from runyard.syntax.trace_options import endpoint
from runyard.text.redaction import redact

EXPORT_SECONDS = 2.0
_SPARE_SECONDS = 0.5
_WARN_SECONDS = 60.0
# What is read of a collector's answer, in bytes: nobody needs it.
_MOST_OF_AN_ANSWER = 64 * 1024
_FAILS = (
    "the collector at %s takes no traces, and %d spans are lost: is it running, and does it take"
    " OTLP over HTTP there?"
)
_IS_SLOW = (
    "the collector at %s takes traces too slowly, and %d spans are lost: give it more resources, or"
    " record fewer traces (OTEL_TRACES_SAMPLER)"
)
_CREDENTIALS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)
_log = logging.getLogger("runyard.traces")


class Delivery(SpanExporter):
    """Delivers spans to the collector, and says now and then that it cannot.

    Attributes
    ----------
    warned_at
        When it was last said that spans are lost, by the monotonic clock; None if never.
    """

    def __init__(self) -> None:
        self._inner = _new_exporter(EXPORT_SECONDS)
        self._ends_at: float | None = None
        self._has_failed = False
        self._dropped = 0
        self.warned_at: float | None = None

    def end_in(self, seconds: float) -> None:
        """Deliver nothing after this time, nor to a collector that has failed: the process ends."""
        self._ends_at = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver spans; those that cannot be delivered at once are dropped."""
        if self._ends_at is None:
            result = self._deliver(self._inner, spans)
        elif self._has_failed or (left := self._ends_at - time.monotonic()) <= 0:
            self._dropped += len(spans)
            return SpanExportResult.FAILURE
        else:
            result = self._deliver(_new_exporter(left), spans)
        if self._dropped and self._ends_at is None:
            self._warn()
        return result

    def _deliver(self, exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = exporter.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        self._has_failed = result is not SpanExportResult.SUCCESS
        if self._has_failed:
            self._dropped += len(spans)
        return result

    def count_overflow(self, record: logging.LogRecord) -> bool:
        """Count a span that the full queue has dropped, from what its processor logs of that."""
        self._dropped += record.msg.startswith("Queue full")
        return False

    def _warn(self) -> None:
        now = time.monotonic()
        if self.warned_at is None or now - self.warned_at >= _WARN_SECONDS:
            self._say()
            self.warned_at = now

    def _say(self) -> None:
        why = _FAILS if self._has_failed else _IS_SLOW
        _log.warning(why, redact(endpoint(os.environ)), self._dropped)
        self._dropped = 0

    def shutdown(self) -> None:
        """Close the connections, and say what was lost."""
        self._inner.shutdown()
        if self._dropped:
            self._say()


def collector_answers() -> bool:
    """Return whether the collector takes an export of no spans, within about two seconds."""
    results: list[SpanExportResult] = []
    with suppress(Exception):
        inner = _new_exporter(EXPORT_SECONDS)
        if in_time(lambda: results.append(inner.export([]))):
            inner.shutdown()
    return results == [SpanExportResult.SUCCESS]


def in_time(do: Callable[[], object]) -> bool:
    """Do something in a thread; return whether it was done in the time that an export may take."""
    thread = threading.Thread(target=do, name="runyard-traces-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is about to end, and starts no thread any more
        do()
        return True
    thread.join(EXPORT_SECONDS + _SPARE_SECONDS)
    return not thread.is_alive()


class _Session(requests.Session):
    """Requests whose answers are read in part, and are answers only if they do not redirect."""

    @override
    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        until = time.monotonic() + EXPORT_SECONDS
        response = super().send(request, **{**options, "stream": True})
        left = _MOST_OF_AN_ANSWER
        while left > 0 and time.monotonic() < until and (piece := response.raw.read1(left)):
            left -= len(piece)
        response.close()
        if response.is_redirect:
            raise requests.TooManyRedirects("the collector redirects")
        return response


def _new_exporter(seconds: float) -> OTLPSpanExporter:
    """An exporter with a timeout; one that asks for credentials has to make its own session."""
    # Of failed exports we warn, less often.
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
    session = None if any(os.environ.get(name) for name in _CREDENTIALS) else _Session()
    return OTLPSpanExporter(timeout=seconds, session=session)
