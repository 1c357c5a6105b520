"""Tokens with which pages subscribe to channels of applications, for a short time.

A token is a JSON Web Token (RFC 7519) with an HMAC of SHA-256. Its key is derived from the signing
key; without one it is random, and tokens are good for this process.
"""

import base64
import hmac
import json
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256

from runyard.apps.trust import signing_keys
from runyard.errors import RunyardError

SECONDS = 900
_MAX_BYTES = 64 * 1024
_PURPOSE = b"runyard realtime tokens"
_HEADER = {"alg": "HS256", "typ": "JWT"}
_AUDIENCE = "realtime"
_own_key = secrets.token_bytes(32)
# A channel and one of its topics.
Topic = tuple[str, str]


class InvalidToken(RunyardError):
    """A token is not one of this server, or it has expired."""


@dataclass(frozen=True)
class Subscription:
    """What a token allows: these topics, until a time in seconds since the epoch."""

    topics: frozenset[Topic]
    until: float


def token_for(topics: Collection[Topic], at: float | None = None) -> str:
    """Return a token for these topics."""
    now = int(time.time() if at is None else at)
    claims = {
        "aud": _AUDIENCE,
        "iat": now,
        "exp": now + SECONDS,
        "topics": [{"channel": channel, "name": name} for channel, name in sorted(topics)],
    }
    signed = f"{_encoded(_HEADER)}.{_encoded(claims)}"
    return f"{signed}.{_signature(next(_keys()), signed)}"


def subscription_of(token: str, at: float | None = None) -> Subscription:
    """Return what a token allows; raises `InvalidToken`."""
    signed, _, signature = token.rpartition(".")
    header, _, claims = signed.partition(".")
    is_signed = False
    if len(token) <= _MAX_BYTES and token.isascii() and header == _encoded(_HEADER):
        for key in _keys():
            is_signed = hmac.compare_digest(_signature(key, signed), signature) or is_signed
    if not is_signed:
        raise InvalidToken("this is not a token of this server: get one from /v1/realtime/token")
    # The signature fits: it is what `token_for` has written.
    content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    if content["exp"] <= (time.time() if at is None else at):
        raise InvalidToken("this token has expired: get another one from /v1/realtime/token")
    topics = frozenset((topic["channel"], topic["name"]) for topic in content["topics"])
    return Subscription(topics, float(content["exp"]))


def _keys() -> Iterator[bytes]:
    """Yield the keys, the one that signs first."""
    keys = signing_keys()
    for key in keys:
        yield hmac.digest(bytes.fromhex(key.digits), _PURPOSE, sha256)
    if not keys:
        yield _own_key


def _signature(key: bytes, text: str) -> str:
    return _in_base64(hmac.digest(key, text.encode(), sha256))


def _encoded(value: object) -> str:
    return _in_base64(json.dumps(value, separators=(",", ":")).encode())


def _in_base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
