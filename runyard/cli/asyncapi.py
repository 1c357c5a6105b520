"""The events that the project takes, as an AsyncAPI 3 document.

Every event type is a channel with one message and the operation to receive it. Events of all
channels come in over the same HTTP endpoint, which the description names.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from runyard.cli.event_schemas import event_schemas
from runyard.events import MAX_EVENT_BYTES, MAX_NAME, catalog
from runyard.settings import settings

# https://www.asyncapi.com/docs/reference/specification/v3.0.0
_VERSION = "3.0.0"
_REFERENCE = "#/components/schemas/{model}"


def document() -> dict[str, Any]:
    """Return the document as JSON values; raises `RunyardError` when there are no event types."""
    events, definitions = event_schemas(_REFERENCE)
    return {
        "asyncapi": _VERSION,
        "info": {
            "title": "Events",
            "version": version("runyard"),
            "description": (
                "Send an event with POST to /api/events, or with any client of Inngest's event"
                f" API to /e/KEY. An event has at most {MAX_EVENT_BYTES:,} bytes."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": f"localhost:{settings().port}",
                "protocol": "http",
                "description": "The address of `runyard up`.",
            }
        },
        "channels": {_key(name): _channel(name) for name in events},
        "operations": {_key(name): _operation(name) for name in events},
        "components": {
            "messages": {_key(name): _message(name, schema) for name, schema in events.items()},
            "schemas": definitions,
        },
    }


def _key(name: str) -> str:
    """An event's name as a key of the document: letters, digits, `.`, `-` and `_`."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)


def _channel(name: str) -> Mapping[str, Any]:
    key = _key(name)
    return {"address": name, "messages": {key: {"$ref": f"#/components/messages/{key}"}}}


def _operation(name: str) -> Mapping[str, Any]:
    key = _key(name)
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{key}"},
        "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
    }


def _message(name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    sent_by, doc = catalog.sent_by(name), getattr(catalog.type_of(name), "__doc__", None)
    return {
        "name": name,
        "title": name,
        "summary": " ".join((doc or "").split()),
        **({"description": f"Sent by {sent_by}."} if sent_by else {}),
        "payload": {
            "type": "object",
            "required": ["name", "data"],
            "properties": {
                "name": {"const": name},
                "data": data,
                "id": {
                    "type": "string",
                    "maxLength": MAX_NAME,
                    "description": (
                        "An idempotency key: another event with it within 24 hours starts nothing."
                    ),
                },
                "ts": {
                    "type": "integer",
                    "description": (
                        "When it happened, in milliseconds since the epoch; later than now"
                        " schedules it."
                    ),
                },
                "user": {"type": "object"},
                "v": {"type": "string", "maxLength": MAX_NAME},
            },
        },
    }
