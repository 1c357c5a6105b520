"""An event, its ids, and the catalog of event types that is checked at the door.

An event type is a pydantic model of the event's data::

    @event_type("email/send.requested")
    class EmailSendRequested(EventData):
        to: list[EmailStr]

Events of a type that the catalog knows must fit it; others are taken as they are.
"""

import base64
import binascii
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runyard.errors import InvalidEvent
from runyard.settings import settings
from runyard.text.storable import is_storable, path_of_unstorable

MAX_EVENT_BYTES = 512 * 1024
MAX_DEPTH = 100
MAX_NAME = 512
# What is wrong with an event is told so many times, and then only counted.
_MOST_PROBLEMS = 50
INTERNAL_PREFIXES = ("runyard/", "inngest/")
EARLIEST_MS = 315_532_800_000  # 1980-01-01, the range of Inngest's event API
LATEST_MS = 4_102_444_800_000  # 2100-01-01
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_SEED = re.compile(r"([0-9]{1,15}),([A-Za-z0-9+/]{14}==)")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_WIRE_FIELDS = frozenset({"name", "data", "id", "ts", "user", "v", "meta"})


_last_ulid = 0
_ulid_lock = threading.Lock()


def new_ulid(millis: int | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (milliseconds since the epoch), the rest random.

    The form is that of the ULID specification (48 bits of time, 80 of randomness, Crockford's base 32). Those that this process makes of the
    present time sort in the order in which they were made: within a millisecond each is the one before plus one, as the specification has it.
    """
    global _last_ulid
    if millis is not None:
        return _as_ulid(millis << 80 | secrets.randbits(79))
    now = int(time.time() * 1000)
    with _ulid_lock:
        # Randomness is a call to the system: one a millisecond will do.
        _last_ulid = _last_ulid + 1 if now <= _last_ulid >> 80 else now << 80 | secrets.randbits(79)
        return _as_ulid(_last_ulid)


def ulid_at(at: datetime) -> str:
    """The lowest ULID of a time: those made earlier sort before it."""
    return _as_ulid(int(at.timestamp() * 1000) << 80)


def seeded_ulids(seed: str, count: int) -> list[str] | None:
    """The ids that a seed gives to the events of a request, the same whenever it is sent again; None for a malformed seed.

    A seed is `<milliseconds>,<base64 of 10 bytes>`. The i-th event, from 1, has these milliseconds and bytes, with i added to the last four, taken
    as a big-endian number (the header `x-inngest-event-id-seed` of Inngest's event API).
    """
    found = _SEED.fullmatch(seed)
    if found is None:
        return None
    try:
        entropy = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return None
    at = int(found[1])
    if len(entropy) != 10 or not EARLIEST_MS <= at <= LATEST_MS:
        return None
    head, tail = int.from_bytes(entropy[:6]), int.from_bytes(entropy[6:])
    return [
        _as_ulid(at << 80 | head << 32 | (tail + number) % 2**32) for number in range(1, count + 1)
    ]


def _as_ulid(number: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


class EventData(BaseModel):
    """The base of every event type: unknown fields are errors, so a misspelt one is found at the door."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=type[EventData])


@dataclass(frozen=True)
class Event:
    """An event as it is sent and as a step sees it.

    Parameters
    ----------
    name
        What happened, 1 to 512 characters: `email/send.requested`.
    data
        A JSON object, 512 KiB at most.
    id
        Before sending: the caller's idempotency key, if any; a second event with it within 24 h starts nothing.
        In a step: the event's own id (a ULID).
    ts
        When it happened, milliseconds since the epoch; in the future it schedules the event. None: now.
    user, v, meta
        As in Inngest's event API: the user it is about, the version of the data's form, and what an SDK says of the event besides.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None
    ts: int | None = None
    user: Mapping[str, Any] | None = None
    v: str | None = None
    meta: Mapping[str, Any] | None = None

    @classmethod
    def from_wire(cls, raw: object) -> "Event":
        """Make an event of parsed JSON; raises `InvalidEvent` that names the bad field."""
        if not isinstance(raw, dict):
            raise InvalidEvent(f"an event is a JSON object with a name and data, not {_kind(raw)}")
        unknown = next((str(key) for key in raw if key not in _WIRE_FIELDS), None)
        if unknown is not None:
            raise InvalidEvent(
                f"unknown field; an event has {', '.join(sorted(_WIRE_FIELDS))}", unknown[:MAX_NAME]
            )
        if "name" not in raw:
            raise InvalidEvent("missing; give the event a name, as in email/send.requested", "name")
        given_id, ts = raw.get("id"), raw.get("ts")
        if isinstance(ts, float) and ts.is_integer():
            ts = int(ts)  # JSON has no whole numbers of its own
        # An empty id and the time 0 are how some SDKs leave them out.
        return cls(
            name=raw["name"],
            data={} if raw.get("data") is None else raw["data"],
            id=None if given_id == "" else given_id,
            ts=None if type(ts) is int and ts == 0 else ts,
            user=raw.get("user"),
            v=raw.get("v"),
            meta=raw.get("meta"),
        )

    def checked(self) -> "Event":
        """Return self when the door lets it in; raises `InvalidEvent` that names the bad field."""
        if isinstance(self.name, str) and self.name.startswith(INTERNAL_PREFIXES):
            raise InvalidEvent(
                "names that begin with runyard/ or inngest/ are kept for internal events; choose another",
                "name",
            )
        return self.fitting()

    def fitting(self) -> "Event":
        """Return self when it is within all limits and fits its type, be it internal or not; raises `InvalidEvent`."""
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidEvent(f"must be text of 1 to {MAX_NAME} characters", "name")
        for name, text in (("id", self.id), ("v", self.v)):
            if text is not None and (not isinstance(text, str) or len(text) > MAX_NAME):
                raise InvalidEvent(f"must be text of up to {MAX_NAME} characters", name)
        for name, text in (("name", self.name), ("id", self.id), ("v", self.v)):
            if text is not None and not is_storable(text):
                raise InvalidEvent(
                    "holds the character NUL or half of a surrogate pair, which PostgreSQL cannot keep; remove it",
                    name,
                )
        if self.ts is not None and (
            isinstance(self.ts, bool)
            or not isinstance(self.ts, int)
            or not EARLIEST_MS <= self.ts <= LATEST_MS
        ):
            raise InvalidEvent(
                "must be milliseconds since the epoch, between the years 1980 and 2100", "ts"
            )
        for name, value in (("data", self.data), ("user", self.user), ("meta", self.meta)):
            if value is not None and not isinstance(value, Mapping):
                raise InvalidEvent(f"must be a JSON object, not {_kind(value)}", name)
            if _deeper_than(MAX_DEPTH, value):
                raise InvalidEvent(f"is nested more than {MAX_DEPTH} levels deep", name)
        parts = {"data": self.data, "user": self.user, "meta": self.meta}
        sizes = {
            name: len(_dumps(dict(part), name).encode()) for name, part in parts.items() if part
        }
        size = sum(sizes.values())
        if size > MAX_EVENT_BYTES:
            message = f"has {size} bytes; an event may have {MAX_EVENT_BYTES} (512 KiB). Keep large things elsewhere and send where they are"
            raise InvalidEvent(message, max(sizes, key=sizes.__getitem__))
        catalog.check(self)
        return self

    def to_row(self) -> dict[str, Any]:
        """The event as an element of the array that the SQL function `runyard.send_v2` takes."""
        row: dict[str, Any] = {"ulid": new_ulid(), "name": self.name, "data": dict(self.data)}
        for key in ("id", "ts", "user", "v", "meta"):
            if (value := getattr(self, key)) is not None:
                row[key] = value
        return row


def rows_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Check every event, then return them all as elements of the array for `runyard.send_v2`; raises `InvalidEvent`."""
    rows: list[dict[str, Any]] = []
    for position, event in enumerate(events):
        try:
            rows.append(event.checked().to_row())
        except InvalidEvent as error:
            if len(events) == 1:
                raise
            raise error.of_item(position) from None
    return rows


def rows_as_json(events: Sequence[Event], target: str | None = None, sender: str = "") -> str:
    """As `rows_of`, as JSON; `target` names the one function that they are for, whatever its triggers, `sender` whose idempotency keys theirs are."""
    more = {
        **({"target": target} if target is not None else {}),
        **({"sender": sender} if sender else {}),
    }
    rows = rows_of(events)
    return as_json([{**row, **more} for row in rows] if more else rows)


def internal_row(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """An element for an internal event, whose name the door would refuse; raises `InvalidEvent` for what else it would."""
    return Event(name, data).fitting().to_row()


def as_json(rows: Sequence[Mapping[str, object]]) -> str:
    """Elements as the array that `runyard.send_v2` takes; raises `InvalidEvent` for what JSON or PostgreSQL cannot hold."""
    return _dumps(rows)


class Catalog:
    """The event types that are known, by name."""

    def __init__(self) -> None:
        self._types: dict[str, type[EventData]] = {}
        self._loaded = False

    def add(self, name: str, model: type[EventData]) -> None:
        """Add an event type. A name has one type; the same class may be added again (a module loaded twice)."""
        known = self._types.get(name)
        if known is not None and known.__qualname__ != model.__qualname__:
            raise InvalidEvent(
                f"{name} has two types in the catalog: {known.__qualname__} and {model.__qualname__}"
            )
        self._types[name] = model

    def load(self) -> None:
        """Import the project's event types once. A process outside the project goes on without them."""
        if self._loaded:
            return
        settings().project_module("catalog")
        self._loaded = True

    def parse(self, name: str, data: Mapping[str, Any]) -> EventData | None:
        """Return the data as its type, None for a name without one; raises `InvalidEvent`."""
        self.load()
        model = self._types.get(name)
        if model is None:
            return None
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise _as_invalid_event(error) from None

    def schema(self, name: str) -> dict[str, Any] | None:
        """The JSON Schema of the data of events of this name, None for a name without a type."""
        self.load()
        model = self._types.get(name)
        return model.model_json_schema() if model is not None else None

    def names(self) -> list[str]:
        """The names of events that have a type."""
        self.load()
        return sorted(self._types)

    def check(self, event: Event) -> None:
        """Raise `InvalidEvent` when the event does not fit its type."""
        self.parse(event.name, event.data)


catalog = Catalog()


def event_type(name: str) -> Callable[[Model], Model]:
    """Class decorator: make this model the type of the data of every event called `name`."""

    def register(model: Model) -> Model:
        catalog.add(name, model)
        return model

    return register


def millis(at: datetime | None = None) -> int:
    """Milliseconds since the epoch of a time (now by default), as `Event.ts` takes them."""
    return int((at or datetime.now(UTC)).timestamp() * 1000)


def _as_invalid_event(error: ValidationError) -> InvalidEvent:
    """Its problems, the first ones of very many; the field is that of the first."""
    found = error.errors(include_url=False, include_input=False)
    problems = [
        (
            ".".join(["data", *(str(part)[:MAX_NAME] for part in problem["loc"])]),
            problem["msg"].removeprefix("Value error, "),
        )
        for problem in found[:_MOST_PROBLEMS]
    ]
    if len(found) > _MOST_PROBLEMS:
        problems.append(("data", f"{len(found) - _MOST_PROBLEMS:,} more fields are wrong"))
    (path, text), *more = problems
    return InvalidEvent(text, path, more)


def _dumps(value: object, field: str = "data") -> str:
    """Compact JSON; raises `InvalidEvent` for what JSON or PostgreSQL cannot hold, with its place below `field`."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InvalidEvent(
            f"holds half of a surrogate pair ({half}), which is no character; remove it",
            path_of_unstorable(value, field),
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"is not JSON: {error}", path_of_unstorable(value, field)) from None
    if "\\u0000" in text and _NUL.search(text):
        message = (
            "holds the character NUL (\\u0000), which PostgreSQL cannot keep in JSON; remove it"
        )
        raise InvalidEvent(message, path_of_unstorable(value, field))
    return text


def _deeper_than(limit: int, value: object) -> bool:
    """Whether objects and arrays are nested more than so many levels deep; level by level, so that no depth is too deep to be told."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (
                parent.values()
                if isinstance(parent, dict | Mapping)
                else parent
                if isinstance(parent, list | tuple)
                else ()
            )
            if isinstance(child, dict | list | tuple)
        ]
        if not level:
            return False
    return True


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _after_fork() -> None:
    """A child goes on from a place of its own: what its parent makes next it may not make too."""
    global _last_ulid, _ulid_lock
    _last_ulid, _ulid_lock = 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
