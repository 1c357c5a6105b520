"""A collector of traces: it takes OTLP over HTTP, and refuses or hangs on demand."""

import gzip
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
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
_STATUSES = {"takes": 200, "never ends": 200, "redirects": 307, "is busy": 503}


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

    Parameters
    ----------
    tls
        With what it offers TLS; None for plain HTTP.

    Attributes
    ----------
    mode
        `takes`, `refuses` (400), `is busy` (503), `redirects` (307), `hangs`, `waits` with its
        answer until another mode is set, or `never ends` its answer.
    busy
        How many of the next requests it is busy for.
    closes
        Whether it closes each connection after an answer, without a word in that.
    seconds
        How long it takes to answer.
    spans
        What it has taken.
    requests
        How many requests came.
    headers
        Those of the last request.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mode = "takes"
        self.spans: list[Recorded] = []
        self.requests = 0
        self.seconds = 0.0
        self.busy = 0
        self.closes = False
        self.headers: dict[str, str] = {}
        self._free = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

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

    def answer(self) -> str:
        """The mode of the next answer."""
        return "is busy" if self.busy else self.mode

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.requests += 1
                collector.headers = {name.lower(): text for name, text in self.headers.items()}
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.mode == "hangs":
                    collector._free.wait()
                while collector.mode == "waits":
                    time.sleep(0.01)
                collector._free.wait(collector.seconds)
                mode, collector.busy = collector.answer(), max(0, collector.busy - 1)
                if mode == "takes" and self.path == "/v1/traces":
                    collector.spans += _spans_in(_decoded(body, self.headers))
                self.send_response(_STATUSES.get(mode, 400))
                if mode == "redirects":
                    self.send_header("location", f"{collector.url}/elsewhere")
                endless = mode == "never ends"
                self.send_header("content-length", str(10**10 if endless else 0))
                self.end_headers()
                self.close_connection = collector.closes
                with suppress(OSError):
                    while endless:
                        self.wfile.write(b"x" * 2**20)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


def _decoded(body: bytes, headers: Mapping[str, str]) -> bytes:
    match headers.get("content-encoding"):
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case _:
            return body


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
