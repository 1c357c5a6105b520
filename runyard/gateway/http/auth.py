"""Authentication and authorization: keys with scopes and rate limits, and signed requests.

On loopback in development no key is required. Otherwise a key comes as `Authorization: Bearer ...`,
as the header `apikey`, or in the path of the event API. Keys are read from the database at most
once a second, or every quarter of a second for an unknown one, which may be new. A revoked key is
rejected within a second.

While the keys cannot be read, a key that was valid when they last were is accepted for another
minute, and by endpoints that tell of the outage for as long as it lasts; never an expired one.
"""

import asyncio
import hmac
import math
import time
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from runyard import clock
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
# However many unknown keys arrive, the database is not read more often than this.
_MIN_INTERVAL_SECONDS = 0.25
# How long a key is accepted that cannot be looked up: the pool may be exhausted, or only this host
# cut off, while the key is revoked elsewhere.
_UNREAD_SECONDS = 60.0
# How long a request that is also served in outages waits for the keys that it can do without.
_HURRY_SECONDS = 1.0
SIGNED_ID = "signed"
_SIGNED = StandardWebhooks("RUNYARD_SIGNING_SECRETS")


class Authenticator:
    """Identifies the caller of a request.

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
        self._buckets: dict[str, _TokenBucket] = {}
        self._used: set[str] = set()

    async def authenticate(
        self,
        request: Request,
        scope: Scope,
        *,
        body: bytes | None = None,
        cookie: str | None = None,
        in_outages: bool = False,
    ) -> Key:
        """The key of a request, or a stand-in for the signer of its body.

        Parameters
        ----------
        scope
            The scope that the key must have.
        body
            The body, if a signature over it is accepted instead of a key.
        cookie
            A key from a cookie or a form, for a request that has none in the usual places.
        in_outages
            Whether a known key is accepted for as long as the database is unavailable, and without
            waiting for it.

        Raises `HttpError`: 401 without a valid key, 403 without the scope, 429 above the rate limit
        of the key, or of unknown keys from one address. Raises `DatabaseUnavailable` when the keys
        cannot be read.
        """
        if self.development:
            return DEVELOPER
        secrets = _secrets_in(request) or ([cookie] if cookie else [])
        if not secrets and body is not None and "webhook-signature" in request.headers:
            _SIGNED.check(request.headers, body)
            return Key(SIGNED_ID, "signed", b"", ("send",), sender="signed")
        key = None
        for secret in secrets:
            key = key or await self._find(secret, in_outages=in_outages)
        if key is None:
            if secrets:
                host = request.client.host if request.client else ""
                await self._unknown_keys.delay(client_address(host))
            raise _unauthorized(request)
        self._check_rate(key)
        if scope not in key.scopes:
            message = f"this key lacks the scope {scope}; it has {', '.join(key.scopes)}"
            raise HttpError(403, "forbidden", message)
        self._used.add(key.id)
        return key

    async def is_still_valid(self, key: Key) -> bool:
        """Whether a key that was accepted a while ago was still valid at most a second ago.

        While the keys cannot be read, it stays valid for a minute.
        """
        try:
            await self.check_still_valid(key)
        except (HttpError, DatabaseUnavailable):
            return False
        return True

    async def check_still_valid(self, key: Key) -> None:
        """Raise `HttpError` if a key that was accepted a while ago is no longer valid.

        Raises `DatabaseUnavailable` when that has been unknown for more than a minute.
        """
        if self.development or key.id == SIGNED_ID:
            return
        try:
            await self._read_since(time.monotonic() - _FRESH_SECONDS)
        except DatabaseUnavailable:
            if not self._accepts_unread(key.hash, _UNREAD_SECONDS):
                raise
        if key.hash not in self._keys:
            raise HttpError(
                401, "unauthorized", "this key was revoked while its request was in progress"
            )

    async def _find(self, secret: str, *, in_outages: bool) -> Key | None:
        digest = api_keys.digest(secret)
        now = time.monotonic()
        unread_seconds = math.inf if in_outages else _UNREAD_SECONDS
        hurries = in_outages and self._accepts_unread(digest, unread_seconds)
        try:
            async with asyncio.timeout(_HURRY_SECONDS if hurries else None):
                await self._read_since(now - _FRESH_SECONDS)
                if digest not in self._keys:
                    # It may have been created a moment ago.
                    await self._read_since(now)
        except (DatabaseUnavailable, TimeoutError):
            if not (hurries or self._accepts_unread(digest, unread_seconds)):
                raise
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.hash, digest) else None

    def _accepts_unread(self, digest: bytes, seconds: float) -> bool:
        """Whether a key is accepted although keys cannot be read: it was valid so recently."""
        key = self._keys.get(digest)
        if key is None or time.monotonic() - self._read_at >= seconds:
            return False
        return key.expires_at is None or clock.now() < key.expires_at

    async def _read_since(self, start: float) -> None:
        """Read the keys unless they were read after `start`.

        Concurrent callers share one read, and its error.
        """
        while self._read_at < start:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._refresh())
            await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        await asyncio.sleep(self._began_at + _MIN_INTERVAL_SECONDS - time.monotonic())
        self._began_at = time.monotonic()
        self._keys = {key.hash: key for key in await run_in_threadpool(self._read)}
        self._read_at = self._began_at

    def _read(self) -> Sequence[Key]:
        if self._used:
            used, self._used = list(self._used), set()
            api_keys.mark_used(used)
        return api_keys.valid()

    def _check_rate(self, key: Key) -> None:
        rate = key.per_second or settings().key_rate_limit
        bucket = self._buckets.setdefault(key.id, _TokenBucket(rate))
        wait = bucket.take(rate)
        if wait > 0:
            raise HttpError(
                429,
                "rate_limited",
                f"this key may send {rate:g} requests a second: wait, then send it again",
                headers={"Retry-After": str(max(1, round(wait)))},
            )


def check_may_send(caller: Key, event: str) -> None:
    """Raise `HttpError` unless a key may send events of this name."""
    if not caller.is_for(event):
        message = f"this key may send {', '.join(caller.events or ())}; not {event[:100]}"
        raise HttpError(403, "forbidden", message)


def check_for_all_events(caller: Key) -> None:
    """Raise `HttpError` for a key that is restricted to some events, where all are concerned."""
    if caller.events is not None:
        message = (
            f"this key is restricted to {', '.join(caller.events)}, and this concerns all events:"
            " use an unrestricted key"
        )
        raise HttpError(403, "forbidden", message)


class _TokenBucket:
    """Holds the tokens of one second; the rate refills it."""

    def __init__(self, rate: float) -> None:
        self._tokens = max(1.0, rate)
        self._at = time.monotonic()

    def take(self, rate: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = time.monotonic()
        self._tokens = min(max(1.0, rate), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0


def _secrets_in(request: Request) -> list[str]:
    """The keys in the headers, and in the path of the event API, where Inngest's clients put it."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    header = value.strip() if scheme.lower() == "bearer" else request.headers.get("apikey")
    return [str(key) for key in (header, request.path_params.get("key")) if key]


def _unauthorized(request: Request) -> HttpError:
    if "key" in request.path_params:
        return HttpError(401, "unauthorized", "Event key not found")  # in the words of Inngest
    return HttpError(
        401,
        "unauthorized",
        "send a key that is valid here: Authorization: Bearer <key>",
        headers={"WWW-Authenticate": "Bearer"},
    )
