"""Who may do what: keys with scopes, a rate for each, signed requests; on loopback in development no key.

A key comes as `Authorization: Bearer ...`, as the header `apikey`, or in the path of the event API. Keys are read from the database at most
every second, or a quarter of a second for one that is not known yet: it may be a new one. A key that was revoked is refused a second later.
"""

import asyncio
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from runyard.engine import api_keys
from runyard.engine.api_keys import Key, Scope
from runyard.errors import DatabaseUnavailable
from runyard.gateway.http.connection_limits import client_address
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.signatures import StandardWebhooks
from runyard.gateway.http.unknown_keys import UnknownKeyThrottle
from runyard.settings import settings

DEVELOPER = Key("development", "development", b"", api_keys.SCOPES)
_FRESH_SECONDS = 1.0
# However many unknown keys come, the database is asked no more often.
_BETWEEN_SECONDS = 0.25
SIGNED_ID = "signed"
_SIGNED = StandardWebhooks("RUNYARD_SIGNING_SECRETS")


class Authenticator:
    """Tells who a request is from.

    Parameters
    ----------
    development
        Whether requests without a key may do everything: on loopback only.
    """

    def __init__(self, development: bool) -> None:
        self.development = development
        self._keys: dict[bytes, Key] = {}
        self._read_at = float("-inf")
        self._began_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._unknown_keys = UnknownKeyThrottle(settings().unknown_key_rate_limit)
        self._buckets: dict[str, _Bucket] = {}
        self._used: set[str] = set()

    async def authenticate(
        self, request: Request, scope: Scope, *, body: bytes | None = None, given: str | None = None
    ) -> Key:
        """The key that a request comes with, or who it is signed by.

        Parameters
        ----------
        scope
            What it must be allowed to do.
        body
            The body, where a signature over it will do instead of a key.
        given
            A key that it brings in another way than those above, where it brings none of them.

        Raises `HttpError`: 401 without a key that is known, 403 for one without the scope, 429 for one that is too fast, or for too many that are not known.
        """
        if self.development:
            return DEVELOPER
        brought = _brought(request) or ([given] if given else [])
        if not brought and body is not None and "webhook-signature" in request.headers:
            _SIGNED.check(request.headers, body)
            return Key(SIGNED_ID, "signed", b"", ("send",), sender="signed")
        key = None
        for each in brought:
            key = key or await self._find(each)
        if key is None:
            if brought:
                await self._unknown_keys.delay(
                    client_address(request.client.host if request.client else "")
                )
            if "key" in request.path_params:
                raise HttpError(401, "unauthorized", "Event key not found")
            raise HttpError(
                401,
                "unauthorized",
                "give a key that is valid here: Authorization: Bearer <key>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        self._hold_to_rate(key)
        if scope not in key.scopes:
            raise HttpError(
                403, "forbidden", f"this key may not {scope}; it may {', '.join(key.scopes)}"
            )
        self._used.add(key.id)
        return key

    async def is_still_valid(self, key: Key) -> bool:
        """Whether a key that was let in a while ago is still valid, as it was at most a second ago; also while the database is away."""
        if self.development or key.id == SIGNED_ID:
            return True
        with suppress(DatabaseUnavailable):
            await self._read_since(time.monotonic() - _FRESH_SECONDS)
        return key.hash in self._keys

    async def check_still_valid(self, key: Key) -> None:
        """Raise `HttpError` for a key that was let in a while ago and is not valid any more."""
        if not await self.is_still_valid(key):
            raise HttpError(
                401, "unauthorized", "this key was revoked while its request was answered"
            )

    async def _find(self, given: str) -> Key | None:
        wanted = api_keys.digest(given)
        asked = time.monotonic()
        await self._read_since(asked - _FRESH_SECONDS)
        if wanted not in self._keys:
            # It may have been made a moment ago.
            await self._read_since(asked)
        found = self._keys.get(wanted)
        return found if found is not None and hmac.compare_digest(found.hash, wanted) else None

    async def _read_since(self, moment: float) -> None:
        """Read the keys unless that was done since a moment; those who ask meanwhile share it, and its error."""
        while self._read_at < moment:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._refresh())
            await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        await asyncio.sleep(self._began_at + _BETWEEN_SECONDS - time.monotonic())
        self._began_at = time.monotonic()
        self._keys = {key.hash: key for key in await run_in_threadpool(self._read)}
        self._read_at = self._began_at

    def _read(self) -> Sequence[Key]:
        if self._used:
            used, self._used = list(self._used), set()
            api_keys.mark_used(used)
        return api_keys.valid()

    def _hold_to_rate(self, key: Key) -> None:
        rate = key.per_second or settings().key_rate_limit
        bucket = self._buckets.setdefault(key.id, _Bucket(rate))
        wait = bucket.take(rate)
        if wait > 0:
            raise HttpError(
                429,
                "rate_limited",
                f"this key may ask {rate:g} times a second: wait, then send it again",
                headers={"Retry-After": str(max(1, round(wait)))},
            )


def check_may_send(caller: Key, event: str) -> None:
    """Raise `HttpError` unless a key may send events of this name."""
    if not caller.is_for(event):
        raise HttpError(
            403,
            "forbidden",
            f"this key may send {', '.join(caller.events or ())}; not {event[:100]}",
        )


def check_for_all_events(caller: Key) -> None:
    """Raise `HttpError` for a key that is for some events only, where something is about all of them."""
    if caller.events is not None:
        raise HttpError(
            403,
            "forbidden",
            f"this key is for {', '.join(caller.events)}, and this is about all events: use a key that is for all",
        )


class _Bucket:
    """A second's worth of requests may come at once; then as many as the rate lets flow in."""

    def __init__(self, rate: float) -> None:
        self._left = max(1.0, rate)
        self._at = time.monotonic()

    def take(self, rate: float) -> float:
        """Take one; return 0, or the seconds until there is one."""
        now = time.monotonic()
        self._left = min(max(1.0, rate), self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / rate
        self._left -= 1
        return 0.0


def _brought(request: Request) -> list[str]:
    """The keys that a request brings: in a header, and in the path of the event API, where clients of Inngest have it."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    keys = [
        value.strip() if kind.lower() == "bearer" else request.headers.get("apikey"),
        request.path_params.get("key"),
    ]
    return [str(key) for key in keys if key]
