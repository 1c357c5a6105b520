"""Spans as OTLP: what is written without a library is read by OpenTelemetry's own messages."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status

from runyard.syntax.traceparent import TraceContext
from runyard.tracing.encoding import encode_resource, encode_span, encode_spans
from runyard.tracing.spans import Span

TRACE, ID, PARENT = 2**128 - 2, 2**64 - 3, 5
ITSELF = TraceContext(TRACE, ID, sampled=True)
ABOVE = TraceContext(TRACE, PARENT, sampled=True)


def request(*spans: Span) -> ExportTraceServiceRequest:
    resource = encode_resource({"service.name": "shop", "process.pid": 4_000_000})
    return ExportTraceServiceRequest.FromString(
        encode_spans(resource, [encode_span(span) for span in spans])
    )


def message(**fields: object) -> SpanMessage:
    """A span with these fields, as it is read."""
    about = {"name": "pack", "context": ITSELF, "parent": ABOVE, "start": 1.5, "end": 2.25}
    [of_resource] = request(Span(**{**about, **fields})).resource_spans  # type: ignore[arg-type]
    [of_scope] = of_resource.scope_spans
    [span] = of_scope.spans
    return span


def attributes(pairs: object) -> dict[str, object]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in pairs  # type: ignore[attr-defined]
    }


def test_a_span_has_its_ids() -> None:
    span = message()
    assert span.trace_id == TRACE.to_bytes(16)
    assert span.span_id == ID.to_bytes(8)
    assert span.parent_span_id == PARENT.to_bytes(8)


def test_a_root_has_no_parent() -> None:
    assert message(parent=None).parent_span_id == b""


def test_times_are_nanoseconds() -> None:
    span = message()
    assert span.start_time_unix_nano == 1_500_000_000
    assert span.end_time_unix_nano == 2_250_000_000


def test_a_span_does_not_end_before_it_starts() -> None:
    assert message(end=1.0).end_time_unix_nano == 1_500_000_000


@pytest.mark.parametrize("kind", ["internal", "client", "producer", "consumer"])
def test_kinds_are_those_of_opentelemetry(kind: str) -> None:
    assert message(kind=kind).kind == SpanMessage.SpanKind.Value(f"SPAN_KIND_{kind.upper()}")


def test_the_parent_of_a_span_may_be_of_another_process() -> None:
    known = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    assert message().flags == known | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    assert message(parent=None).flags == known


def test_a_span_without_an_error_has_no_status() -> None:
    assert message().status.code == Status.STATUS_CODE_UNSET


def test_a_span_with_an_error_says_so() -> None:
    span = message(error="Refused")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span.attributes) == {"error.type": "Refused"}


@pytest.mark.parametrize(
    "value", ["", "x", "ж" * 200, "x" * 20_000, 0, 127, 128, 300, 2**40, 2**63 - 1, -1, -(2**63)]
)
def test_attributes_are_texts_and_whole_numbers(value: str | int) -> None:
    assert attributes(message(attributes={"about": value}).attributes) == {"about": value}


def test_text_that_utf_8_does_not_have_is_replaced() -> None:
    assert attributes(message(attributes={"about": "a\ud800b"}).attributes) == {"about": "a?b"}


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384])
def test_names_have_any_length(length: int) -> None:
    assert message(name="n" * length).name == "n" * length


def test_a_name_shows_no_secret() -> None:
    assert "hunter2" not in message(name="get postgresql://ada:hunter2@db/shop").name


def test_links_lead_to_other_traces() -> None:
    [link] = message(links=[TraceContext(7, 8, sampled=True)]).links
    assert link.trace_id == (7).to_bytes(16)
    assert link.span_id == (8).to_bytes(8)


def test_a_request_names_its_process() -> None:
    [of_resource] = request(Span("pack", ITSELF, None, 1.0, 2.0)).resource_spans
    assert attributes(of_resource.resource.attributes) == {
        "service.name": "shop",
        "process.pid": 4_000_000,
    }


def test_a_request_has_all_spans_in_one_scope() -> None:
    spans = [Span(f"step {number}", ITSELF, None, 1.0, 2.0) for number in range(500)]
    [of_resource] = request(*spans).resource_spans
    [of_scope] = of_resource.scope_spans
    assert of_scope.scope.name == "runyard"
    assert [span.name for span in of_scope.spans] == [span.name for span in spans]
