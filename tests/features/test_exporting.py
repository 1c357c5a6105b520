"""The exporter of a process's spans: requests to a collector, the queue, and its end."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from runyard.syntax.export_options import ExportOptions
from runyard.syntax.traceparent import TraceContext
from runyard.tracing.collector import Collector as Client
from runyard.tracing.collector import NotTaken
from runyard.tracing.encoding import encode_resource, encode_span, encode_spans
from runyard.tracing.spans import Span
from tests.collector import Collector

BODY = encode_spans(
    encode_resource({"service.name": "shop"}),
    [encode_span(Span("pack", TraceContext(1, 2, sampled=True), None, 1.0, 2.0))],
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def client(collector: Collector, **variables: str) -> Client:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}
    return Client(ExportOptions.from_environment(variables))


def names(collector: Collector) -> list[str]:
    return [span.name for span in collector.spans]


def test_a_request_is_taken(collector: Collector) -> None:
    with client(collector) as collectors:
        collectors.post(BODY)
    assert names(collector) == ["pack"]


def test_a_request_has_the_headers_of_the_variable(collector: Collector) -> None:
    with client(collector, OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b") as collectors:
        collectors.post(BODY)
    assert collector.headers["api-key"] == "a b"
    assert collector.headers["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_a_request_is_compressed(collector: Collector, compression: str) -> None:
    with client(collector, OTEL_EXPORTER_OTLP_COMPRESSION=compression) as collectors:
        collectors.post(BODY)
    assert collector.headers["content-encoding"] == compression
    assert names(collector) == ["pack"]


def test_a_connection_that_the_collector_has_closed_is_opened_again(collector: Collector) -> None:
    collector.closes = True
    with client(collector) as collectors:
        for _ in range(3):
            collectors.post(BODY)
    assert names(collector) == ["pack"] * 3


def test_a_collector_that_is_busy_is_asked_again(collector: Collector) -> None:
    collector.busy = 1
    with client(collector) as collectors:
        collectors.post(BODY)
    assert collector.requests == 2


def test_a_collector_that_stays_busy_takes_nothing(collector: Collector) -> None:
    collector.mode = "is busy"
    with client(collector) as collectors, pytest.raises(TimeoutError):
        collectors.post(BODY, seconds=1.0)


def test_a_refused_request_is_not_posted_again(collector: Collector) -> None:
    collector.mode = "refuses"
    with client(collector) as collectors, pytest.raises(NotTaken, match="it answered 400"):
        collectors.post(BODY)
    assert collector.requests == 1


def test_a_redirect_is_not_followed(collector: Collector) -> None:
    collector.mode = "redirects"
    with client(collector) as collectors, pytest.raises(NotTaken, match="it answered 307"):
        collectors.post(BODY)
    assert collector.requests == 1


def test_a_collector_shows_the_certificate_that_is_trusted_and_asks_for_one(tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    files = {"CERTIFICATE": certificate, "CLIENT_CERTIFICATE": certificate, "CLIENT_KEY": key}
    variables = {f"OTEL_EXPORTER_OTLP_{name}": str(path) for name, path in files.items()}
    with Collector(context) as collector, client(collector, **variables) as collectors:
        collectors.post(BODY)
        assert names(collector) == ["pack"]


def test_a_collector_with_another_certificate_gets_nothing(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certified(tmp_path))
    with Collector(context) as collector, client(collector) as collectors:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            collectors.post(BODY)
        assert collector.requests == 0


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine that is its own authority, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=collector"]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", *options, *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
