"""Events, their ids, and the catalog of event types against which they are validated.

An event type is a pydantic model of the event's data::

    @event_type("email/send.requested")
    class EmailSendRequested(EventData):
        to: list[EmailStr]

Events whose name has a type in the catalog must fit it; others are accepted as they are.
"""

import base64
import binascii
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runyard.errors import InvalidEvent
from runyard.settings import settings
from runyard.text.storable import is_storable, path_of_unstorable
from runyard.tracing.contexts import current_context

MAX_EVENT_BYTES = 512 * 1024
MAX_DEPTH = 100
MAX_NAME = 512
# An error lists this many problems of an event, and counts the others.
_MAX_PROBLEMS = 50
INTERNAL_PREFIXES = ("runyard/", "inngest/")
EARLIEST_MS = 315_532_800_000  # 1980-01-01, the range of Inngest's event API
LATEST_MS = 4_102_444_800_000  # 2100-01-01
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_SEED = re.compile(r"([0-9]{1,15}),([A-Za-z0-9+/]{14}==)")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_WIRE_FIELDS = frozenset({"name", "data", "id", "ts", "user", "v", "meta"})
_KINDS = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_last_ulid = 0
_ulid_lock = threading.Lock()


def new_ulid(millis: int | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (milliseconds since the epoch).

    The format is that of the ULID specification: 48 bits of time and 80 random bits, in Crockford's
    base 32. ULIDs that this process makes for the present time sort in the order in which they were
    made: as the specification says, within a millisecond each is the previous one plus one.
    """
    global _last_ulid
    if millis is not None:
        return _as_ulid(millis << 80 | secrets.randbits(79))
    now = int(time.time() * 1000)
    with _ulid_lock:
        # Random bits cost a system call, so there is only one in a millisecond.
        _last_ulid = _last_ulid + 1 if now <= _last_ulid >> 80 else now << 80 | secrets.randbits(79)
        return _as_ulid(_last_ulid)


def ulid_at(at: datetime) -> str:
    """Return the lowest ULID of a time: those made earlier sort before it."""
    return _as_ulid(int(at.timestamp() * 1000) << 80)


def seeded_ulids(seed: str, count: int) -> list[str] | None:
    """Return the ids that a seed gives to a request's events; None for a malformed seed.

    They are the same whenever the request is sent again. A seed is `<milliseconds>,<base64 of 10
    bytes>`, as in the header `x-inngest-event-id-seed` of Inngest's event API. The i-th event, from
    1, has these milliseconds and bytes, with i added to the last four bytes, taken as a big-endian
    number.
    """
    match = _SEED.fullmatch(seed)
    if match is None:
        return None
    try:
        entropy = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return None
    at = int(match[1])
    if len(entropy) != 10 or not EARLIEST_MS <= at <= LATEST_MS:
        return None
    head, tail = int.from_bytes(entropy[:6]), int.from_bytes(entropy[6:])
    return [
        _as_ulid(at << 80 | head << 32 | (tail + number) % 2**32) for number in range(1, count + 1)
    ]


def _as_ulid(number: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


class EventData(BaseModel):
    """The base of every event type. Unknown fields are errors, so that misspelt ones are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=type[EventData])


@dataclass(frozen=True)
class Event:
    """An event as it is sent and as a step sees it.

    Parameters
    ----------
    name
        What happened, in 1 to 512 characters: `email/send.requested`.
    data
        A JSON object of up to 512 KiB.
    id
        Before sending: the caller's idempotency key, if any. A second event with the same key
        within 24 hours starts nothing. In a step: the event's own id (a ULID).
    ts
        When it happened, in milliseconds since the epoch; a time in the future schedules the event.
        None: now.
    user, v, meta
        As in Inngest's event API: the user that the event is about, the version of the data's
        format, and an SDK's metadata.
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
        """Make an event from parsed JSON; raises `InvalidEvent` that names the offending field."""
        if not isinstance(raw, dict):
            raise InvalidEvent(f"an event is a JSON object with a name and data, not {_kind(raw)}")
        unknown = next((str(key) for key in raw if key not in _WIRE_FIELDS), None)
        if unknown is not None:
            raise InvalidEvent(
                f"unknown field; an event has {', '.join(sorted(_WIRE_FIELDS))}", unknown[:MAX_NAME]
            )
        if "name" not in raw:
            raise InvalidEvent("missing; give the event a name, as in email/send.requested", "name")
        key, ts = raw.get("id"), raw.get("ts")
        if isinstance(ts, float) and ts.is_integer():
            ts = int(ts)  # JSON does not tell whole numbers from others
        # Some SDKs send an empty id and the time 0 for none.
        return cls(
            name=raw["name"],
            data={} if raw.get("data") is None else raw["data"],
            id=None if key == "" else key,
            ts=None if type(ts) is int and ts == 0 else ts,
            user=raw.get("user"),
            v=raw.get("v"),
            meta=raw.get("meta"),
        )

    def checked(self, *, internal: bool = False) -> "Event":
        """Return the event if it is valid; raises `InvalidEvent` that names the offending field.

        `internal` permits the names that are reserved for internal events.
        """
        if not internal and isinstance(self.name, str) and self.name.startswith(INTERNAL_PREFIXES):
            raise InvalidEvent(
                "names that begin with runyard/ or inngest/ are reserved for internal events; "
                "choose another",
                "name",
            )
        self._check_texts()
        self._check_ts()
        self._check_objects()
        catalog.check(self)
        return self

    def _check_texts(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidEvent(f"must be text of 1 to {MAX_NAME} characters", "name")
        for name, text in (("id", self.id), ("v", self.v)):
            if text is not None and (not isinstance(text, str) or len(text) > MAX_NAME):
                raise InvalidEvent(f"must be text of up to {MAX_NAME} characters", name)
        for name, text in (("name", self.name), ("id", self.id), ("v", self.v)):
            if text is not None and not is_storable(text):
                raise InvalidEvent(
                    "contains the character NUL or half of a surrogate pair, which PostgreSQL "
                    "cannot store; remove it",
                    name,
                )

    def _check_ts(self) -> None:
        if self.ts is None:
            return
        whole = isinstance(self.ts, int) and not isinstance(self.ts, bool)
        if not whole or not EARLIEST_MS <= self.ts <= LATEST_MS:
            raise InvalidEvent(
                "must be milliseconds since the epoch, between the years 1980 and 2100", "ts"
            )

    def _check_objects(self) -> None:
        objects = {"data": self.data, "user": self.user, "meta": self.meta}
        for name, value in objects.items():
            if value is not None and not isinstance(value, Mapping):
                raise InvalidEvent(f"must be a JSON object, not {_kind(value)}", name)
            if _deeper_than(MAX_DEPTH, value):
                raise InvalidEvent(f"is nested more than {MAX_DEPTH} levels deep", name)
        sizes = {
            name: len(_dumps(dict(value), name).encode())
            for name, value in objects.items()
            if value
        }
        size = sum(sizes.values())
        if size > MAX_EVENT_BYTES:
            raise InvalidEvent(
                f"has {size} bytes, and the limit of an event is {MAX_EVENT_BYTES} (512 KiB). "
                "Store large content elsewhere and send its location",
                max(sizes, key=sizes.__getitem__),
            )

    def to_row(self) -> dict[str, Any]:
        """Return the event as an element of the array for the SQL function `runyard.send_v1`."""
        row: dict[str, Any] = {"ulid": new_ulid(), "name": self.name, "data": dict(self.data)}
        for key in ("id", "ts", "user", "v", "meta"):
            if (value := getattr(self, key)) is not None:
                row[key] = value
        span = current_context()
        if span is not None:
            row["trace"] = str(span)
        return row


def rows_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Validate events, and return them as elements of the array for `runyard.send_v1`.

    Raises `InvalidEvent`.
    """
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
    """Validate events, and return the array for `runyard.send_v1` as JSON; raises `InvalidEvent`.

    Parameters
    ----------
    target
        The one function that the events are for, whatever its triggers.
    sender
        Events of the same sender share idempotency keys.
    """
    more: dict[str, str] = {}
    if target is not None:
        more["target"] = target
    if sender:
        more["sender"] = sender
    rows = rows_of(events)
    return as_json([{**row, **more} for row in rows] if more else rows)


def internal_row(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the array element for an internal event; raises `InvalidEvent`."""
    return Event(name, data).checked(internal=True).to_row()


def as_json(rows: Sequence[Mapping[str, object]]) -> str:
    """Return elements as the array for `runyard.send_v1`.

    Raises `InvalidEvent` for values that JSON or PostgreSQL cannot hold.
    """
    return _dumps(rows)


class Catalog:
    """The known event types, by event name."""

    def __init__(self) -> None:
        self._types: dict[str, type[EventData]] = {}
        self._senders: dict[str, str] = {}
        self._loaded = False

    def add(self, name: str, model: type[EventData], sent_by: str = "") -> None:
        """Add an event type.

        A name has one type; the same class may be added again, as when a module is loaded twice.
        """
        known = self._types.get(name)
        if known is not None and known.__qualname__ != model.__qualname__:
            raise InvalidEvent(
                f"{name} has two types in the catalog: {known.__qualname__}, {model.__qualname__}"
            )
        self._types[name] = model
        self._senders[name] = sent_by

    def load(self) -> None:
        """Import the project's event types once; a process outside of the project has none."""
        if self._loaded:
            return
        settings().project_module("catalog")
        self._loaded = True

    def parse(self, name: str, data: Mapping[str, Any]) -> EventData | None:
        """Return the data as its type, or None for a name without one; raises `InvalidEvent`."""
        self.load()
        model = self._types.get(name)
        if model is None:
            return None
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise _as_invalid_event(error) from None

    def schema(self, name: str) -> dict[str, Any] | None:
        """Return the JSON Schema of an event's data, or None for a name without a type."""
        self.load()
        model = self._types.get(name)
        return model.model_json_schema() if model is not None else None

    def type_of(self, name: str) -> type[EventData] | None:
        """Return the type of an event's data, or None for a name without one."""
        self.load()
        return self._types.get(name)

    def sent_by(self, name: str) -> str:
        """Return who sends events of a name, as its type says; empty when it does not."""
        self.load()
        return self._senders.get(name, "")

    def names(self) -> list[str]:
        """Return the event names that have a type."""
        self.load()
        return sorted(self._types)

    def names_of(self, model: type[EventData]) -> list[str]:
        """Return the names of the events whose data is of this type."""
        return sorted(
            name
            for name, known in self._types.items()
            if known.__qualname__ == model.__qualname__ and known.__module__ == model.__module__
        )

    def known(self, name: str) -> type[EventData] | None:
        """Return the type of an event's data, as far as the loaded code has it."""
        return self._types.get(name)

    def check(self, event: Event) -> None:
        """Raise `InvalidEvent` when an event does not fit its type."""
        self.parse(event.name, event.data)


catalog = Catalog()


def event_type(name: str, *, sent_by: str = "") -> Callable[[Model], Model]:
    """Return a class decorator that makes a model the type of the data of these events.

    Parameters
    ----------
    name
        The name of the events.
    sent_by
        Who sends them, for the catalog: `the webhook of SendGrid`.
    """

    def register(model: Model) -> Model:
        catalog.add(name, model, sent_by)
        return model

    return register


def millis(at: datetime | None = None) -> int:
    """Return a time (default: now) in milliseconds since the epoch, as `Event.ts` takes it."""
    return int((at or datetime.now(UTC)).timestamp() * 1000)


def _as_invalid_event(error: ValidationError) -> InvalidEvent:
    """Return pydantic's error as `InvalidEvent`, whose field is that of the first problem."""
    errors = error.errors(include_url=False, include_input=False)
    problems = [
        (
            ".".join(["data", *(str(part)[:MAX_NAME] for part in problem["loc"])]),
            problem["msg"].removeprefix("Value error, "),
        )
        for problem in errors[:_MAX_PROBLEMS]
    ]
    if len(errors) > _MAX_PROBLEMS:
        problems.append(("data", f"{len(errors) - _MAX_PROBLEMS:,} more fields are wrong"))
    (path, text), *more = problems
    return InvalidEvent(text, path, more)


def _dumps(value: object, field: str = "data") -> str:
    """Return compact JSON.

    Raises `InvalidEvent` for a value that JSON or PostgreSQL cannot hold, with its path from
    `field`.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InvalidEvent(
            f"contains half of a surrogate pair ({half}), which is not a character; remove it",
            path_of_unstorable(value, field),
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"is not JSON: {error}", path_of_unstorable(value, field)) from None
    if "\\u0000" in text and _NUL.search(text):
        raise InvalidEvent(
            "contains the character NUL (\\u0000), which JSON in PostgreSQL cannot hold; remove it",
            path_of_unstorable(value, field),
        )
    return text


def _deeper_than(limit: int, value: object) -> bool:
    """Return whether objects and arrays are nested more than `limit` levels deep.

    It works level by level, as recursion would fail on very deep values.
    """
    level: list[Any] = [value]
    for _ in range(limit):
        children = (child for parent in level for child in _children(parent))
        level = [child for child in children if isinstance(child, dict | list | tuple)]
        if not level:
            return False
    return True


def _children(value: object) -> Collection[Any]:
    if isinstance(value, dict | Mapping):  # a dict is told apart much faster
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _after_fork() -> None:
    """Make a child start from random bits of its own, or it would make the same ULIDs."""
    global _last_ulid, _ulid_lock
    _last_ulid, _ulid_lock = 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
