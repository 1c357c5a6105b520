"""Encodes spans as OTLP, which collectors take: messages of protobuf.

A span is encoded when it ends, so that what waits for an export is bytes: they are small, and the
garbage collector does not look at them. The messages are written without a library, in a tenth of
the time: each is a list of fields, and a field is its number and type in one byte, the length if it
has one, and the value.

Sources: https://protobuf.dev/programming-guides/encoding, and opentelemetry/proto/trace/v1,
resource/v1 and common/v1 of https://github.com/open-telemetry/opentelemetry-proto.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct

from runyard.syntax.traceparent import TraceContext
from runyard.text.redaction import redact
from runyard.tracing.spans import Span

# A field's byte is its number, times eight, and its type: 0 a varint, 1 eight bytes, 2 bytes of a
# length, 5 four bytes.
_KEY, _VALUE = b"\x0a", b"\x12"  # of an attribute
_STRING, _INT = b"\x0a", b"\x18"  # of a value
_ATTRIBUTE_OF_RESOURCE = b"\x0a"
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"  # with their lengths
_NAME, _ATTRIBUTE, _LINK, _STATUS = b"\x2a", b"\x4a", b"\x6a", b"\x7a"
_KINDS = {
    "internal": b"\x30\x01",
    "client": b"\x30\x03",
    "producer": b"\x30\x04",
    "consumer": b"\x30\x05",
}
_TIMES = Struct("<BQBQ").pack  # fields 7 and 8, start and end
_START, _END = 0x39, 0x41
_ERROR = _STATUS + b"\x02\x18\x02"
# Field 16: that is known whether the parent is of another process; every parent may be.
_FLAGS, _FLAGS_OF_CHILD = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
_FLAGS_OF_LINK = b"\x35\x00\x03\x00\x00"
_SPANS_OF_SCOPE = b"\x12"
_SCOPE = b"\x0a\x09\x0a\x07runyard"
_RESOURCE, _SCOPES, _SPANS_OF_RESOURCE = b"\x0a", b"\x12", b"\x0a"
_ONE_BYTE = [bytes((number,)) for number in range(128)]
_SIGNLESS = 2**64 - 1


def encode_span(span: Span) -> bytes:
    """Return a span as `encode_spans` takes it."""
    context, parent = span.context, span.parent
    parts = [_TRACE_ID, context.trace_id.to_bytes(16), _SPAN_ID, context.span_id.to_bytes(8)]
    if parent is not None:
        parts += (_PARENT_ID, parent.span_id.to_bytes(8))
    start, end = _nanoseconds(span.start), _nanoseconds(max(span.start, span.end))
    parts += (_name(span.name), _KINDS[span.kind], _TIMES(_START, start, _END, end))
    parts += [_attribute(_ATTRIBUTE, *item) for item in span.attributes.items()]
    parts += [_field(_LINK, _link(link)) for link in span.links]
    if span.error:
        parts += (_attribute(_ATTRIBUTE, "error.type", span.error), _ERROR)
    parts.append(_FLAGS if parent is None else _FLAGS_OF_CHILD)
    return _field(_SPANS_OF_SCOPE, b"".join(parts))


def encode_resource(attributes: Mapping[str, object]) -> bytes:
    """Return what names a process, as `encode_spans` takes it."""
    fields = (_attribute(_ATTRIBUTE_OF_RESOURCE, *item) for item in attributes.items())
    return _field(_RESOURCE, b"".join(fields))


def encode_spans(resource: bytes, spans: Iterable[bytes]) -> bytes:
    """Return the body of a request that exports spans, or a part of it: such bodies can be joined.

    Parameters
    ----------
    resource
        What `encode_resource` returned for the process.
    spans
        What `encode_span` returned for each.
    """
    scope = _field(_SCOPES, b"".join((_SCOPE, *spans)))
    return _field(_SPANS_OF_RESOURCE, resource + scope)


def _field(tag: bytes, value: bytes) -> bytes:
    return tag + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    if number < 128:
        return _ONE_BYTE[number]
    parts = bytearray()
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


@lru_cache(maxsize=4096)
def _attribute(tag: bytes, key: str, value: object) -> bytes:
    """An attribute; most are those of other spans too."""
    if isinstance(value, int):
        encoded = _INT + _varint(value & _SIGNLESS)
    else:
        encoded = _field(_STRING, _text(str(value)))
    return _field(tag, _field(_KEY, _text(key)) + _field(_VALUE, encoded))


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    """A name without secrets; there are few, and looking for secrets takes long."""
    return _field(_NAME, _text(redact(name)))


def _link(context: TraceContext) -> bytes:
    ids = (_TRACE_ID, context.trace_id.to_bytes(16), _SPAN_ID, context.span_id.to_bytes(8))
    return b"".join((*ids, _FLAGS_OF_LINK))


def _text(text: str) -> bytes:
    return text.encode(errors="replace")


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1_000_000_000))
