"""Signing keys: what calls are signed with, and how applications prove who they are.

A key is `signkey-<word>-<hexadecimal digits>`, or the digits alone. The first key signs. A second
one is accepted as well, while applications move from one to the other.
"""

import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from runyard.errors import InvalidOption

_KEY = re.compile(r"(signkey-[A-Za-z0-9]+-)?((?:[0-9a-fA-F]{2}){8,256})")
_SIGNATURE = re.compile(r"t=([0-9]{1,12})&s=([0-9a-f]{64})")
_BEARER = re.compile(r"Bearer (?:signkey-[A-Za-z0-9]+-)?([0-9a-fA-F]{16,512})", re.IGNORECASE)
_MOST_SKEW = 300
HEADER = "x-inngest-signature"


@dataclass(frozen=True, repr=False)
class SigningKey:
    """A signing key, without its prefix."""

    digits: str

    @classmethod
    def parse(cls, text: str, what: str) -> "SigningKey":
        """Return a key from its text; raises `InvalidOption`, which does not repeat it."""
        match = _KEY.fullmatch(text.strip())
        if match is None:
            raise InvalidOption(
                f"{what}: not a signing key: write signkey-prod-, or another word, and 16 to 512"
                " hexadecimal digits, as from `openssl rand -hex 32`"
            )
        return cls(match[2])

    @property
    def bearer(self) -> str:
        """The digits with which an application authenticates: the hash of the key."""
        return sha256(bytes.fromhex(self.digits)).hexdigest()

    def signature(self, body: bytes, at: int) -> str:
        """Return the signature of a body at a time, in seconds since the epoch."""
        key = self.digits.encode()
        return hmac.new(key, body + str(at).encode(), sha256).hexdigest()


def signed_headers(
    keys: Sequence[SigningKey], body: bytes, at: float | None = None
) -> dict[str, str]:
    """Return the headers that sign a body with the first key; none without a key."""
    if not keys:
        return {}
    now = int(time.time() if at is None else at)
    return {HEADER: f"t={now}&s={keys[0].signature(body, now)}"}


def is_signed(
    keys: Sequence[SigningKey], headers: Mapping[str, str], body: bytes, at: float | None = None
) -> bool:
    """Return whether a body bears the signature of one of the keys, of the last five minutes."""
    match = _SIGNATURE.fullmatch(headers.get(HEADER, ""))
    if match is None:
        return False
    now = time.time() if at is None else at
    signed_at = int(match[1])
    fits = [hmac.compare_digest(key.signature(body, signed_at), match[2]) for key in keys]
    return any(fits) and abs(now - signed_at) <= _MOST_SKEW


def is_authorized(keys: Sequence[SigningKey], authorization: str) -> bool:
    """Return whether an `Authorization` header names one of the keys, hashed or as it is."""
    match = _BEARER.fullmatch(authorization.strip())
    if match is None:
        return False
    given = match[1].lower()
    fits = [
        hmac.compare_digest(known, given)
        for key in keys
        for known in (key.bearer, key.digits.lower())
    ]
    return any(fits)
