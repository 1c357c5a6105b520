"""Signature schemes of webhook senders: one small class each, which verifies one request.

A secret is read when it is needed from the environment variable that the scheme names, so that no
page or log of the definitions contains it. Several comma-separated secrets are all valid, so that a
secret can be rotated without losing a request.
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
    """A signature scheme."""

    @property
    def variable(self) -> str:
        """The name of the environment variable that holds the secret."""
        ...

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise `HttpError` (401) unless the request is signed with a known secret."""
        ...


@dataclass(frozen=True)
class StandardWebhooks:
    """The Standard Webhooks specification 1.0.

    The headers are `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,<base64>`, the
    signature covers `id.timestamp.body`.
    """

    variable: str

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`; a timestamp that is more than 5 minutes off is refused."""
        message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        require(1 <= len(message_id) <= _LONGEST_ID)
        signatures = [
            value.removeprefix("v1,")
            for value in headers.get("webhook-signature", "").split()
            if value.startswith("v1,")
        ]
        check_timestamp(timestamp)
        signed = f"{message_id}.{timestamp}.".encode() + body
        expected = (
            _base64_mac(_standard_key(secret), signed) for secret in secrets_of(self.variable)
        )
        _require_any(expected, signatures)


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
        signatures = [value for name, value in parts if name.strip() == "v1"]
        expected = (
            hmac.new(secret.encode(), signed, sha256).hexdigest()
            for secret in secrets_of(self.variable)
        )
        _require_any(expected, signatures)


@dataclass(frozen=True)
class BodyHmac:
    """An HMAC-SHA256 of the body alone, in one header.

    GitHub (`X-Hub-Signature-256: sha256=<hex>`), Shopify (base64) and many others use it.

    Parameters
    ----------
    variable
        See `Signature`.
    header, prefix
        The header with the signature, and what precedes it there.
    encoding
        `hex` or `base64`.
    """

    variable: str
    header: str = "x-hub-signature-256"
    prefix: str = "sha256="
    encoding: str = "hex"

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`."""
        header = headers.get(self.header, "")
        require(header.startswith(self.prefix))
        macs = (hmac.new(secret.encode(), body, sha256) for secret in secrets_of(self.variable))
        expected = (
            mac.hexdigest() if self.encoding == "hex" else base64.b64encode(mac.digest()).decode()
            for mac in macs
        )
        _require_any(expected, [header.removeprefix(self.prefix)])


@dataclass(frozen=True)
class SharedSecret:
    """A secret in a header instead of a signature: `Authorization: Bearer ...` or another."""

    variable: str
    header: str = "authorization"
    prefix: str = "Bearer "

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """See `Signature`."""
        del body
        header = headers.get(self.header, "")
        require(any(_same(self.prefix + secret, header) for secret in secrets_of(self.variable)))


def secrets_of(variable: str) -> list[str]:
    """The secrets in an environment variable; raises `HttpError` when it is not set."""
    secrets = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    if not secrets:
        message = f"the signature cannot be verified: set {variable} to the sender's signing secret"
        raise HttpError(401, "no_secret", message)
    return secrets


def standard_headers(variable: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The Standard Webhooks headers of a request that we send.

    It is signed with every secret in the environment variable, or not at all if there is none.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if os.environ.get(variable):
        signed = f"{message_id}.{timestamp}.".encode() + body
        headers["webhook-signature"] = " ".join(
            f"v1,{_base64_mac(_standard_key(secret), signed)}" for secret in secrets_of(variable)
        )
    return headers


def check_timestamp(timestamp: str) -> None:
    """Raise `HttpError` for a timestamp (in Unix seconds) that is more than 5 minutes off."""
    require(
        re.fullmatch(r"[0-9]{1,12}", timestamp) is not None
        and abs(time.time() - int(timestamp)) <= TOLERANCE_SECONDS
    )


def require(valid: bool) -> None:
    """Raise the `HttpError` for an invalid signature unless it is valid."""
    if not valid:
        raise HttpError(401, "bad_signature", "the signature is missing, invalid or too old")


def _require_any(expected: Iterable[str], signatures: Sequence[str]) -> None:
    """Require that one of the expected signatures was sent.

    However many were sent, the body is hashed once for each secret.
    """
    require(any(_same(mac, signature) for mac in expected for signature in signatures))


def _standard_key(secret: str) -> bytes:
    """The key in a Standard Webhooks secret: `whsec_` and base64, or any other text literally."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            message = "the signature cannot be verified: the secret after whsec_ is not base64"
            raise HttpError(401, "no_secret", message) from None
    return secret.encode()


def _base64_mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()


def _same(expected: str, sent: str) -> bool:
    return hmac.compare_digest(expected.encode(), sent.encode())
