"""How senders sign what they post: one small class a scheme, each checks one request.

A secret is read from the environment when it is needed, under the name that the scheme is given, so that no page or log of the definitions
holds it. Several secrets, with commas between, are all taken: so one can be changed without losing a request.
"""

import base64
import binascii
import hmac
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from runyard.gateway.http.errors import HttpError

TOLERANCE_SECONDS = 300
_LONGEST_ID = 256


class Signature(Protocol):
    """A scheme."""

    @property
    def variable(self) -> str:
        """The name of the environment variable that holds the secret."""
        ...

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise `HttpError` (401) when the request is not signed, or not with a secret that is known."""
        ...


@dataclass(frozen=True)
class StandardWebhooks:
    """The Standard Webhooks specification 1.0: `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,<base64>` over `id.timestamp.body`."""

    variable: str

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`; a timestamp that is more than 5 minutes off is refused."""
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        require(1 <= len(message_id) <= _LONGEST_ID)
        given = [
            value.removeprefix("v1,")
            for value in headers.get("webhook-signature", "").split()
            if value.startswith("v1,")
        ]
        check_timestamp(timestamp)
        signed = f"{message_id}.{timestamp}.".encode() + body
        _require_any(
            (_base64_mac(_standard_key(secret), signed) for secret in secrets_of(self.variable)),
            given,
        )


@dataclass(frozen=True)
class Stripe:
    """Stripe's scheme: `Stripe-Signature: t=<seconds>,v1=<hex>` over `timestamp.body`."""

    variable: str

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`; a timestamp that is more than 5 minutes off is refused."""
        parts = [
            part.partition("=")[::2] for part in headers.get("stripe-signature", "").split(",")
        ]
        timestamp = next((value for name, value in parts if name.strip() == "t"), "")
        check_timestamp(timestamp)
        signed = f"{timestamp}.".encode() + body
        given = [value for name, value in parts if name.strip() == "v1"]
        _require_any(
            (
                hmac.new(secret.encode(), signed, sha256).hexdigest()
                for secret in secrets_of(self.variable)
            ),
            given,
        )


@dataclass(frozen=True)
class BodyHmac:
    """An HMAC-SHA256 of the body alone in one header, as GitHub (`X-Hub-Signature-256: sha256=<hex>`), Shopify (base64) and many others have it.

    Parameters
    ----------
    variable
        See `Signature`.
    header, prefix
        Where the signature is, and what stands before it.
    encoding
        `hex` or `base64`.
    """

    variable: str
    header: str = "x-hub-signature-256"
    prefix: str = "sha256="
    encoding: str = "hex"

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`."""
        given = headers.get(self.header, "")
        require(given.startswith(self.prefix))
        made = (hmac.new(secret.encode(), body, sha256) for secret in secrets_of(self.variable))
        texts = (
            mac.hexdigest() if self.encoding == "hex" else base64.b64encode(mac.digest()).decode()
            for mac in made
        )
        _require_any(texts, [given.removeprefix(self.prefix)])


@dataclass(frozen=True)
class SharedSecret:
    """No signature, but a secret in a header: `Authorization: Bearer ...`, or a header of the sender's own."""

    variable: str
    header: str = "authorization"
    prefix: str = "Bearer "

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`."""
        del body
        given = headers.get(self.header, "")
        require(any(_same(self.prefix + secret, given) for secret in secrets_of(self.variable)))


def secrets_of(variable: str) -> list[str]:
    """The secrets in an environment variable; raises `HttpError` when it is not set."""
    found = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    if not found:
        raise HttpError(
            401,
            "no_secret",
            f"this cannot be checked: set {variable} to the sender's signing secret",
        )
    return found


def standard_headers(variable: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a post of our own by Standard Webhooks, signed with every secret in the environment variable; without a signature where it has none."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if os.environ.get(variable):
        signed = f"{message_id}.{timestamp}.".encode() + body
        headers["webhook-signature"] = " ".join(
            f"v1,{_base64_mac(_standard_key(secret), signed)}" for secret in secrets_of(variable)
        )
    return headers


def check_timestamp(timestamp: str) -> None:
    """Raise `HttpError` for a time (seconds since the epoch) that is more than 5 minutes off."""
    require(
        re.fullmatch(r"[0-9]{1,12}", timestamp) is not None
        and abs(time.time() - int(timestamp)) <= TOLERANCE_SECONDS
    )


def require(holds: bool) -> None:
    """Raise the `HttpError` of a wrong signature unless it holds."""
    if not holds:
        raise HttpError(401, "bad_signature", "the signature is missing, wrong or too old")


def _require_any(made: Iterable[str], given: Sequence[str]) -> None:
    """Raise the `HttpError` unless a signature that was made is among those given. However many are given, the body is gone through once for each secret."""
    require(any(_same(text, value) for text in made for value in given))


def _standard_key(secret: str) -> bytes:
    """The key of a Standard Webhooks secret: `whsec_` and base64, or any other text as it is."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise HttpError(
                401,
                "no_secret",
                "this cannot be checked: the signing secret is not whsec_ and base64",
            ) from None
    return secret.encode()


def _base64_mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()


def _same(wanted: str, given: str) -> bool:
    return hmac.compare_digest(wanted.encode(), given.encode())
