"""The keys of the HTTP API: made, listed and revoked here, kept as SHA-256 only.

A key is `ry_<environment>_` and 32 random bytes, or one that a client has already (an Inngest event key, say). The whole key is shown
once, when it is made.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal, cast

import psycopg

from runyard.errors import InvalidOption, RunyardError
from runyard.events import new_ulid
from runyard.functions.triggers import matches
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all

Scope = Literal["send", "read", "manage"]
SCOPES: tuple[Scope, ...] = ("send", "read", "manage")
_FASTEST = 1e6
_SHORTEST = 16
_LONGEST = 200
# What can stand in the path of a URL as it is.
_FORM = re.compile(r"[A-Za-z0-9_.~+=-]+")
_HINT = 8


@dataclass(frozen=True)
class Key:
    """A key as the door knows it.

    Attributes
    ----------
    id, name
        What it is called in lists and logs.
    hash
        The SHA-256 of the key, 32 bytes.
    scopes
        What it may do: `send` events, `read` the history, `manage` (replay, cancel, pause).
    events
        Patterns of the event names that it is for: those that it may send, and whose history it may read; None for all.
    per_second
        Its requests a second; None for the default.
    sender
        Whose the events are that it sends: what has the same sender shares idempotency keys. Empty where no key is asked for.
    """

    id: str
    name: str
    hash: bytes
    scopes: tuple[Scope, ...]
    events: tuple[str, ...] | None = None
    per_second: float | None = None
    sender: str = ""

    def is_for(self, event: str) -> bool:
        """Whether it is for events of this name."""
        return self.events is None or any(matches(pattern, event) for pattern in self.events)

    def name_patterns(self) -> list[str] | None:
        """The names that it is for as patterns of SQL's LIKE; None for all."""
        return (
            None
            if self.events is None
            else [
                re.sub(r"([\\\\%_])", r"\\\1", pattern).replace("*", "%") for pattern in self.events
            ]
        )


def digest(key: str) -> bytes:
    """The form in which a key is kept and compared."""
    return sha256(key.encode()).digest()


def create(
    name: str,
    scopes: Sequence[str],
    *,
    events: Sequence[str] = (),
    tenant: str | None = None,
    per_second: float | None = None,
    expires_at: datetime | None = None,
    key: str | None = None,
) -> tuple[str, str]:
    """Make a key for this environment; return its id and the key itself, which is not kept.

    Parameters
    ----------
    name
        Who uses it, 1 to 100 characters.
    scopes
        Some of `SCOPES`.
    events
        Patterns of the event names that it may send, and whose history it may read (`contact/*`); all by default.
    tenant
        Whose it is: keys of one tenant share idempotency keys. Nobody shares those of a key without one.
    per_second
        Its requests a second; the default of the settings when None.
    expires_at
        When it ends by itself.
    key
        A key that its user has already; a new one by default.

    Raises `InvalidOption`.
    """
    if not 1 <= len(name.strip()) <= 100:
        raise InvalidOption("name: say who uses the key, in 1 to 100 characters")
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        raise InvalidOption(
            f"scope {wrong[0] if wrong else ''!r}: give some of {', '.join(SCOPES)}"
        )
    if per_second is not None and not 0 < per_second <= _FASTEST:
        raise InvalidOption(
            f"per second (--rate) {per_second}: give more than 0, and {_FASTEST:,.0f} at most"
        )
    if tenant is not None and not 1 <= len(tenant.strip()) <= 100:
        raise InvalidOption("tenant: say whose the key is, in 1 to 100 characters")
    made = key if key is not None else f"ry_{settings().environment}_{secrets.token_urlsafe(32)}"
    if not _SHORTEST <= len(made) <= _LONGEST or not _FORM.fullmatch(made):
        raise InvalidOption(
            f"key: it must have {_SHORTEST} to {_LONGEST} letters, digits or characters of _.~+=-"
        )
    row = {
        "id": new_ulid(),
        "hash": digest(made),
        "hint": made[: _HINT if key is not None else len(f"ry_{settings().environment}_") + 4],
        "name": name.strip(),
        "environment": settings().environment,
        "scopes": sorted(set(scopes)),
        "events": list(events) or None,
        "tenant": tenant and tenant.strip(),
        "per_second": per_second,
        "expires_at": expires_at,
    }
    try:
        with database.connection() as connection:
            fetch_all(connection, "create_key", **row)
    except psycopg.errors.UniqueViolation:
        raise InvalidOption(
            "key: it is known already; `runyard keys list` shows its name, revoke it first"
        ) from None
    return cast(str, row["id"]), made


def revoke(given: str) -> str:
    """Revoke the key with this id or name; return its name. Raises `RunyardError` when there is none, or several."""
    with database.transaction() as connection:
        rows = fetch_all(connection, "revoke_key", given=given)
        if len(rows) != 1:
            raise RunyardError(
                f"there {'is no key' if not rows else f'are {len(rows)} keys'} {given!r} to revoke: `runyard keys list` shows their ids, by which each can be revoked"
            )
    return str(rows[0]["name"])


def listed() -> list[Row]:
    """Every key, newest first, without the key itself."""
    with database.connection() as connection:
        return fetch_all(connection, "keys")


def valid() -> list[Key]:
    """The keys that this environment takes now."""
    with database.connection() as connection:
        rows = fetch_all(connection, "valid_keys", environment=settings().environment)
    return [_key(row) for row in rows]


def mark_used(ids: Sequence[str]) -> None:
    """Note that these keys were used just now."""
    with database.connection() as connection:
        fetch_all(connection, "mark_keys_used", ids=list(ids))


def _key(row: Row) -> Key:
    events = tuple(row["events"]) if row["events"] is not None else None
    sender = f"key {row['id']}" if row["tenant"] is None else f"tenant {row['tenant']}"
    return Key(
        row["id"],
        row["name"],
        bytes(row["hash"]),
        tuple(row["scopes"]),
        events,
        row["per_second"],
        sender,
    )
