"""Asks applications to register: now, or again because they may have changed.

An application is asked with `PUT` at the URL at which it serves its functions. It answers with its
registration (in-band), or posts it to `/fn/register` of the server that it knows (out-of-band).
What it says about the outcome is not to be trusted: what counts is what has arrived here.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import pydantic_core

from runyard.apps import catalog
from runyard.apps.answers import Answer
from runyard.apps.calls import Caller
from runyard.apps.canonical_json import canonical
from runyard.apps.fields import InvalidField
from runyard.apps.registration import (
    InvalidRegistration,
    checked_url,
    parse_registration,
    shown_url,
)
from runyard.apps.signatures import SigningKey, is_signed, signed_headers
from runyard.apps.trust import guard, server_kind, signing_keys
from runyard.errors import InvalidOption, RunyardError
from runyard.settings import settings

SECONDS = 10.0
SYNC_KIND = "x-inngest-sync-kind"
_IN_BAND = "in_band"
_SHOWN = 300


class SyncFailed(RunyardError):
    """An application has not registered; the message says why, and what to do."""


@dataclass(frozen=True)
class Introspection:
    """What an application says about itself without being asked to register.

    Attributes
    ----------
    is_sdk
        Whether an Inngest SDK has answered at all.
    functions
        How many functions it serves; None if it does not say.
    """

    is_sdk: bool
    functions: int | None = None


def caller(seconds: float = SECONDS) -> Caller:
    """Return a client for what this module does; a context manager."""
    return Caller(guard(), seconds)


async def sync(url: str, client: Caller, *, in_band: bool = True) -> Sequence[str]:
    """Let an application register, and return the names of those that have.

    Parameters
    ----------
    url
        Where it serves its functions.
    client
        Makes the call.
    in_band
        Whether it may answer with its registration; otherwise only an application that knows this
        server registers.

    Raises
    ------
    SyncFailed
        It has not registered. Applications that were registered at this URL keep what they have,
        with a note.
    """
    try:
        checked = checked_url(url, "the URL")
    except InvalidOption as error:
        raise SyncFailed(str(error)) from None
    try:
        return await _sync(checked, client, in_band)
    except (SyncFailed, InvalidOption) as error:
        await asyncio.to_thread(_note, checked, str(error))
        raise SyncFailed(str(error)) from None


async def introspect(url: str, client: Caller) -> Introspection:
    """Return what is served at a URL, as far as it says so."""
    headers = signed_headers(signing_keys(), b"")
    answer = await client.ask("GET", url, b"", headers)
    count = _fields(answer.body).get("function_count")
    return Introspection(_is_of_sdk(answer), count if isinstance(count, int) else None)


def register(body: bytes, asked: str = "") -> bool:
    """Write the registration in a body, and return whether anything has changed.

    `asked` is what this server has asked with, if it has. Raises `InvalidRegistration`, which is
    noted where the application is shown.
    """
    try:
        app = parse_registration(body)
    except InvalidRegistration as error:
        if error.app:
            catalog.note_error(error.app, error.url, str(error), asked)
        raise
    try:
        return catalog.write(app, asked)
    except InvalidOption as error:
        words = f"at least one function is invalid: {error}"
        catalog.note_error(app.name, app.url, words, asked)
        raise InvalidRegistration(words, app.name, app.url) from None


async def _sync(url: str, client: Caller, in_band: bool) -> Sequence[str]:
    keys = signing_keys()
    body = canonical({"url": url}).encode()
    asked = secrets.token_hex(8)
    headers = {
        "content-type": "application/json",
        "x-inngest-server-kind": server_kind(),
        SYNC_KIND: _IN_BAND if in_band else "out_of_band",
        **signed_headers(keys, body),
    }
    answer = await client.ask("PUT", _asking(url, asked), body, headers)
    if answer.status == 200 and answer.headers.get(SYNC_KIND) == _IN_BAND:
        _check_signature(answer, keys)
        await asyncio.to_thread(register, answer.body, asked)
    arrived = await asyncio.to_thread(catalog.asked_with, asked)
    refused = [row["error"] for row in arrived if row["error"]]
    if refused or not arrived:
        raise SyncFailed("; ".join(refused) or _why_not(url, answer))
    return [row["name"] for row in arrived]


def _asking(url: str, asked: str) -> str:
    """Return the URL to ask at. An application repeats `deployId` when it registers."""
    parts = urlsplit(url)
    query = f"{parts.query}&deployId={asked}" if parts.query else f"deployId={asked}"
    return urlunsplit(parts._replace(query=query))


def _check_signature(answer: Answer, keys: Sequence[SigningKey]) -> None:
    """Check the signature of a registration: it says where events go."""
    if keys and not is_signed(keys, answer.headers, answer.body):
        raise InvalidField(
            "the registration does not bear the signature of the application: start it without"
            " INNGEST_DEV, and with the value of RUNYARD_SIGNING_KEY as INNGEST_SIGNING_KEY"
        )


def _why_not(url: str, answer: Answer) -> str:
    said = str(_fields(answer.body).get("message") or _fields(answer.body).get("error") or "")
    shown = f": {said[:_SHOWN]}" if said else ""
    if not answer.status:
        return answer.problem
    if answer.status in (401, 403):
        return f"the application refuses us (HTTP {answer.status}{shown}): {_how_to_agree()}"
    if not _is_of_sdk(answer):
        return (
            f"no Inngest SDK answers at {shown_url(url)} (HTTP {answer.status}): give the whole URL"
            " at which functions are served, as in http://localhost:3000/api/inngest"
        )
    return (
        f"the application has answered (HTTP {answer.status}{shown}), but has not registered here:"
        f" start it with {_variables()}"
    )


def _how_to_agree() -> str:
    if signing_keys():
        return "its INNGEST_SIGNING_KEY must be RUNYARD_SIGNING_KEY"
    return (
        "it wants to be asked with a signature, and this server has no key: start it with"
        f" {_variables()}, or set RUNYARD_SIGNING_KEY to its INNGEST_SIGNING_KEY"
    )


def _variables() -> str:
    if signing_keys():
        return (
            "INNGEST_BASE_URL, INNGEST_SIGNING_KEY and INNGEST_EVENT_KEY, and without INNGEST_DEV"
        )
    return f"INNGEST_DEV=http://localhost:{settings().port}"


def _note(url: str, error: str) -> None:
    for name in catalog.names_at(url):
        catalog.note_error(name, url, error)


def _is_of_sdk(answer: Answer) -> bool:
    return bool(answer.headers.get("x-inngest-sdk") or answer.headers.get("x-inngest-sdk-handled"))


def _fields(body: bytes) -> Mapping[str, object]:
    try:
        fields = pydantic_core.from_json(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
