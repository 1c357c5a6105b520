"""The endpoints that accept events, one or an array of them.

`POST /e/{key}` is compatible with Inngest's event API; `/api/events` and `/api/inngest` also accept
signed requests. All events of a request are accepted, or none. The response comes after the commit.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from runyard.errors import InvalidEvent
from runyard.events import EARLIEST_MS, LATEST_MS, Event, rows_of, seeded_ulids
from runyard.gateway.http.auth import SIGNED_ID
from runyard.gateway.http.body import LARGE_BYTES, client_errors, parse_in_thread, parse_json
from runyard.gateway.http.endpoint import Call, Endpoint
from runyard.gateway.http.event_writer import EncodedEvents

MAX_EVENTS = 5000
_EXAMPLE = {"number": 7, "customer": "ada@example.com"}
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            "examples": ["order/placed"],
        },
        "data": {"type": ["object", "null"], "examples": [_EXAMPLE]},
        "id": {
            "type": ["string", "null"],
            "maxLength": 512,
            "description": "Idempotency key: a repetition within 24 hours starts nothing.",
        },
        "ts": {
            "anyOf": [
                {"type": "integer", "minimum": EARLIEST_MS, "maximum": LATEST_MS},
                {"const": 0},
                {"type": "null"},
            ],
            "description": "Milliseconds since the epoch; a future time schedules the event.",
        },
        "user": {"type": ["object", "null"]},
        "v": {"type": ["string", "null"], "maxLength": 512},
        "meta": {"type": ["object", "null"]},
    },
}
_EVENTS = {"oneOf": [_EVENT, {"type": "array", "maxItems": MAX_EVENTS, "items": _EVENT}]}


class Sent(BaseModel):
    """The ids of the events, in order."""

    ids: list[str]
    status: int = 200


async def send_events(call: Call) -> Sent:
    """Accept events; the response with their ids comes after the commit."""
    rows = await parse_in_thread(_rows, call) if len(call.raw) > LARGE_BYTES else _rows(call)
    return Sent(ids=await call.services.writer.send(rows))


def _rows(call: Call) -> EncodedEvents:
    """The events of a request, validated and encoded."""
    with client_errors():
        return _checked_rows(call)


def _events(parsed: Sequence[Any]) -> list[Event]:
    """The events of a request; errors in one of several name its position."""
    if len(parsed) == 1:
        return [Event.from_wire(parsed[0])]
    events: list[Event] = []
    for position, raw in enumerate(parsed):
        try:
            events.append(Event.from_wire(raw))
        except InvalidEvent as error:
            raise error.of_item(position) from None
    return events


def _checked_rows(call: Call) -> EncodedEvents:
    events = _events(_parse(call.raw))
    for event in events:
        if isinstance(event.name, str):
            call.check_may_send(event.name)
    rows = rows_of(events)
    if call.caller.id == SIGNED_ID:
        # A retry of a signed request has the same `webhook-id` (Standard Webhooks), so its events
        # get the same ids.
        for position, row in enumerate(rows):
            row.setdefault("id", f"{call.request.headers['webhook-id']}/{position}")
    ulids = seeded_ulids(call.request.headers.get("x-inngest-event-id-seed", ""), len(rows))
    if ulids is not None:
        for row, ulid in zip(rows, ulids, strict=True):
            row["ulid"] = ulid
    return EncodedEvents.of(rows, call.caller.sender)


def _parse(body: bytes) -> list[object]:
    parsed = parse_json(body)
    if isinstance(parsed, dict):
        return [parsed]
    if not isinstance(parsed, list):
        raise InvalidEvent("Request body must contain an event object or an array of event objects")
    if len(parsed) > MAX_EVENTS:
        raise InvalidEvent(
            f"the body has {len(parsed)} events, and a request may have {MAX_EVENTS}:"
            " send several requests"
        )
    return parsed


ENDPOINTS = [
    Endpoint(
        "POST",
        "/e/{key}",
        send_events,
        "Events",
        "Send events, compatible with Inngest's event API.",
        "send",
        response=Sent,
        body_schema=_EVENTS,
        error_fields={"ids": []},
    ),
    *[
        Endpoint(
            "POST",
            path,
            send_events,
            "Events",
            summary,
            "send",
            response=Sent,
            body_schema=_EVENTS,
            signed=True,
            error_fields={"ids": []},
        )
        for path, summary in (
            ("/api/events", "Send events, with a key or signed (Standard Webhooks)."),
            ("/api/inngest", "The same as `/api/events`, at the path that Inngest uses."),
        )
    ],
]
