"""A collector of traces: it takes OTLP over HTTP, and refuses or hangs on demand."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

_KINDS = {
    SpanMessage.SPAN_KIND_INTERNAL: "internal",
    SpanMessage.SPAN_KIND_CLIENT: "client",
    SpanMessage.SPAN_KIND_PRODUCER: "producer",
    SpanMessage.SPAN_KIND_CONSUMER: "consumer",
}
_STATUSES = {"takes": 200, "never ends": 200, "redirects": 307}


@dataclass(frozen=True)
class Recorded:
    """A span as it arrived; ids in hexadecimal digits, an empty `parent` of a root."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    start: float
    end: float
    failed: bool
    attributes: dict[str, Any]
    links: list[str]
    service: str = field(repr=False)


class Collector:
    """A collector on a port of its own.

    Attributes
    ----------
    mode
        `takes`, `refuses` (503), `redirects` (307), `hangs`, `waits` with its answer until another
        mode is set, or `never ends` its answer.
    seconds
        How long it takes to answer.
    spans
        What it has taken.
    requests
        How many requests came.
    """

    def __init__(self) -> None:
        self.mode = "takes"
        self.spans: list[Recorded] = []
        self.requests = 0
        self.seconds = 0.0
        self._free = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Recorded]:
        """The spans of this name, in the order of their start."""
        return sorted((span for span in self.spans if span.name == name), key=lambda s: s.start)

    def wait_for(self, ready: "Callable[[Collector], bool]", seconds: float = 30.0) -> None:
        """Wait until something is true of it."""
        until = time.monotonic() + seconds
        while not ready(self):
            assert time.monotonic() < until, f"it did not come about: {self.spans}"
            time.sleep(0.05)

    def tree(self, trace: str) -> dict[str, Any]:
        """The names of a trace's spans, each with those below it, in the order of their start."""
        own = sorted((span for span in self.spans if span.trace == trace), key=lambda s: s.start)
        ids = {span.id for span in own}

        def below(parents: set[str]) -> dict[str, Any]:
            branches: dict[str, Any] = {}
            for span in own:
                if span.parent in parents:
                    name = span.name
                    while name in branches:
                        name += " again"
                    branches[name] = below({span.id})
            return branches

        return below({span.parent for span in own if span.parent not in ids})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.requests += 1
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.mode == "hangs":
                    collector._free.wait()
                while collector.mode == "waits":
                    time.sleep(0.01)
                collector._free.wait(collector.seconds)
                if collector.mode == "takes" and self.path == "/v1/traces":
                    collector.spans += _spans_in(body)
                self.send_response(_STATUSES.get(collector.mode, 503))
                if collector.mode == "redirects":
                    self.send_header("location", f"{collector.url}/elsewhere")
                endless = collector.mode == "never ends"
                self.send_header("content-length", str(10**10 if endless else 0))
                self.end_headers()
                with suppress(OSError):
                    while endless:
                        self.wfile.write(b"x" * 2**20)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


def _spans_in(body: bytes) -> list[Recorded]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Recorded(
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            kind=_KINDS[span.kind],
            start=span.start_time_unix_nano / 1e9,
            end=span.end_time_unix_nano / 1e9,
            failed=span.status.code == Status.STATUS_CODE_ERROR,
            attributes=_attributes(span.attributes),
            links=[link.trace_id.hex() for link in span.links],
            service=_attributes(of_resource.resource.attributes)["service.name"],
        )
        for of_resource in request.resource_spans
        for scope in of_resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
