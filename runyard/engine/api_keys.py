"""The keys of the HTTP API: created, listed and revoked here, stored as SHA-256 hashes only.

A key is `ry_<environment>_` and 32 random bytes, or one that a client has already, such as an
Inngest event key. The key itself is shown only once, when it is created.
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
_MAX_RATE = 1e6
_MIN_LENGTH, _MAX_LENGTH = 16, 200
_MAX_NAME = 100
# Characters that need no encoding in the path of a URL.
_FORM = re.compile(r"[A-Za-z0-9_.~+=-]+")
# How many characters of a key are shown in lists: of one that a client has brought, and of one
# created here, after its prefix.
_HINT_LENGTH, _HINT_AFTER_PREFIX = 8, 4


@dataclass(frozen=True)
class Key:
    """A key as the HTTP API knows it.

    Attributes
    ----------
    id, name
        How it appears in lists and logs.
    hash
        The SHA-256 hash of the key, 32 bytes.
    scopes
        What it permits: `send` events, `read` the history, `manage` (replay, cancel, pause).
    events
        Patterns of the event names that it may send, and whose history it may read; None: all.
    per_second
        Its rate limit, in requests per second; None: the default.
    sender
        The sender of its events: keys with the same sender share idempotency keys. Empty when no
        key is required.
    expires_at
        When it expires; None: never.
    """

    id: str
    name: str
    hash: bytes
    scopes: tuple[Scope, ...]
    events: tuple[str, ...] | None = None
    per_second: float | None = None
    sender: str = ""
    expires_at: datetime | None = None

    def is_for(self, event: str) -> bool:
        """Return whether the key is for events of this name."""
        return self.events is None or any(matches(pattern, event) for pattern in self.events)

    def name_patterns(self) -> list[str] | None:
        """Return the event names that the key is for as patterns of SQL's LIKE; None: all."""
        if self.events is None:
            return None
        escaped = [re.sub(r"([\\\\%_])", r"\\\1", pattern) for pattern in self.events]
        return [pattern.replace("*", "%") for pattern in escaped]


def digest(key: str) -> bytes:
    """Return the form in which a key is stored and compared."""
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
    """Create a key for this environment; return its id, and the key itself, which is not stored.

    Parameters
    ----------
    name
        Who uses it, 1 to 100 characters.
    scopes
        Some of `SCOPES`.
    events
        Patterns of the event names that it may send, and whose history it may read (`contact/*`);
        all by default.
    tenant
        The tenant that it belongs to: keys of a tenant share idempotency keys. A key without a
        tenant shares its idempotency keys with no other.
    per_second
        Its rate limit, in requests per second; None: the default of the settings.
    expires_at
        When it expires.
    key
        A key that its user has already; a new one by default.

    Raises
    ------
    InvalidOption
        An option is malformed, or the key exists already.
    """
    _check(name, scopes, tenant, per_second)
    prefix = f"ry_{settings().environment}_"
    hint = _HINT_LENGTH
    if key is None:
        key = prefix + secrets.token_urlsafe(32)
        hint = len(prefix) + _HINT_AFTER_PREFIX
    if not _MIN_LENGTH <= len(key) <= _MAX_LENGTH or not _FORM.fullmatch(key):
        raise InvalidOption(
            f"key: it must have {_MIN_LENGTH} to {_MAX_LENGTH} letters, digits or characters of "
            "_.~+=-"
        )
    row = {
        "id": new_ulid(),
        "hash": digest(key),
        "hint": key[:hint],
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
            "key: it exists already; `runyard keys list` shows its name, revoke it first"
        ) from None
    return cast(str, row["id"]), key


def _check(name: str, scopes: Sequence[str], tenant: str | None, per_second: float | None) -> None:
    if not 1 <= len(name.strip()) <= _MAX_NAME:
        raise InvalidOption(f"name: say who uses the key, in 1 to {_MAX_NAME} characters")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        known = ", ".join(SCOPES)
        raise InvalidOption(f"scope {unknown[0] if unknown else ''!r}: give some of {known}")
    if per_second is not None and not 0 < per_second <= _MAX_RATE:
        raise InvalidOption(
            f"per second (--rate) {per_second}: give more than 0, and {_MAX_RATE:,.0f} at most"
        )
    if tenant is not None and not 1 <= len(tenant.strip()) <= _MAX_NAME:
        raise InvalidOption(f"tenant: say whose the key is, in 1 to {_MAX_NAME} characters")


def revoke(id_or_name: str) -> str:
    """Revoke a key by its id or name; return its name.

    Raises `RunyardError` when there is no such key, or more than one.
    """
    with database.transaction() as connection:
        rows = fetch_all(connection, "revoke_key", given=id_or_name)
        if len(rows) != 1:
            keys = "is no key" if not rows else f"are {len(rows)} keys"
            raise RunyardError(
                f"there {keys} {id_or_name!r} to revoke: `runyard keys list` shows the id of each "
                "key, by which it can be revoked"
            )
    return str(rows[0]["name"])


def listed() -> list[Row]:
    """Return all keys, newest first, without the keys themselves."""
    with database.connection() as connection:
        return fetch_all(connection, "keys")


def valid() -> list[Key]:
    """Return the keys that are valid in this environment now."""
    with database.connection() as connection:
        rows = fetch_all(connection, "valid_keys", environment=settings().environment)
    return [_key(row) for row in rows]


def mark_used(ids: Sequence[str]) -> None:
    """Record that these keys have just been used."""
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
        row["expires_at"],
    )
