"""The event types in words: their fields, an example, which functions they start, who sends them.

Shown on a page of the dev page; `runyard catalog` prints the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runyard.events import catalog
from runyard.gateway.dev.forms import Schema, example, help_of, resolved
from runyard.gateway.dev.page import Page, Values, Visit
from runyard.store import database
from runyard.store.queries import fetch_all

_MAX_LEVEL = 6
_NAMES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}
# Keywords that the type already says.
_IN_TYPE = ("format",)
_FORMATS = {"date-time": "date and time", "date": "date", "email": "e-mail address", "uri": "URL"}


@dataclass(frozen=True)
class EventField:
    """A field of an event's data.

    Attributes
    ----------
    path
        Where it is in the data: `to`, `page.title`, and `attachments[].filename` for a field of the
        elements of a list.
    type
        What it holds, in words: `list of text`.
    required
        Whether it has to be there, if what contains it is there.
    help
        Its description, bounds and default.
    """

    path: str
    type: str
    required: bool
    help: str


@dataclass(frozen=True)
class DescribedEvent:
    """An event type.

    Attributes
    ----------
    name, summary
        The name of the events, and what they say in a sentence or two.
    fields
        The fields of the data, those of objects after the object.
    example
        Data of this type.
    starts
        The functions that it starts.
    sent_by
        Who sends it; empty when the type does not say so.
    """

    name: str
    summary: str
    fields: tuple[EventField, ...]
    example: Mapping[str, Any]
    starts: tuple[str, ...]
    sent_by: str


def described_events(starts: Mapping[str, Sequence[str]]) -> list[DescribedEvent]:
    """Return the event types of the catalog, by name.

    Parameters
    ----------
    starts
        The functions that events start, by the event's name.
    """
    return [_described(name, tuple(starts.get(name, ()))) for name in catalog.names()]


def _described(name: str, starts: tuple[str, ...]) -> DescribedEvent:
    schema = catalog.schema(name) or {}
    return DescribedEvent(
        name=name,
        summary=" ".join(str(schema.get("description", "")).split()),
        fields=tuple(_fields(schema, schema, "", 1)),
        example=example(schema),
        starts=starts,
        sent_by=catalog.sent_by(name),
    )


def _fields(schema: Schema, root: Schema, prefix: str, level: int) -> Iterator[EventField]:
    required = schema.get("required", ())
    for name, declared in schema.get("properties", {}).items():
        inner = resolved(declared, root)
        yield EventField(
            path=prefix + name,
            type=_type(inner, root, 1),
            required=name in required,
            help=help_of(declared, {key: inner[key] for key in inner if key not in _IN_TYPE}),
        )
        if level < _MAX_LEVEL:
            items = resolved(inner.get("items", {}), root)
            yield from _fields(inner, root, f"{prefix}{name}.", level + 1)
            yield from _fields(items, root, f"{prefix}{name}[].", level + 1)


def _type(schema: Schema, root: Schema, level: int) -> str:
    """What the values of a schema are, in words."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array" and level < _MAX_LEVEL:
        elements = schema.get("prefixItems") or [schema.get("items", {})]
        types = [_plural(_type(resolved(each, root), root, level + 1)) for each in elements]
        return f"list of {' or '.join(dict.fromkeys(types))}"
    if isinstance(kind, str):
        return _FORMATS.get(schema.get("format", ""), _NAMES.get(kind, kind))
    choices = schema.get("anyOf") or schema.get("oneOf") or ()
    types = [_type(resolved(choice, root), root, level + 1) for choice in choices]
    return " or ".join(dict.fromkeys(types)) if types and level < _MAX_LEVEL else "anything"


def _plural(kind: str) -> str:
    is_countable = kind.endswith(("object", "number", "URL", "date"))
    return f"{kind}s" if is_countable else kind


def list_event_types(visit: Visit) -> Values:
    """All event types."""
    del visit
    with database.connection() as connection:
        rows = fetch_all(connection, "functions_by_event", events=catalog.names())
    return {"events": described_events({row["event"]: row["functions"] for row in rows})}


PAGES = [Page("/catalog", "catalog", list_event_types, menu="Catalog")]
