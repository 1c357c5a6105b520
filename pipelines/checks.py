"""What `runyard doctor` says of the project's own: which providers are on, and whether their keys are good. One that is off is well: the default stands in."""

import os
import uuid
from collections.abc import Callable, Sequence
from functools import partial

import httpx

from resources.ai.generators import Generator
from resources.ai.providers import switched_on
from resources.email.addresses import Mailbox
from resources.email.mailer import DEFAULT_SENDER, SENDGRID_HOST
from resources.media import preview_codecs
from resources.media.store import MediaStore
from resources.sync.source_config import sources
from runyard.errors import RunyardError
from runyard.processes.checks import Check

_SECONDS = 10.0


def checks() -> Sequence[Check]:
    """A line for mail, each text provider, the media store and each source of data."""
    found = [_check("mail", _mail), *_texts(), _check("media", _media)]
    try:
        return [*found, *(_source(name) for name in sources())]
    except RunyardError as error:
        return [*found, Check("sync", False, str(error))]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (RunyardError, OSError, httpx.HTTPError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _mail() -> str:
    try:
        Mailbox.parse(os.environ.get("MAIL_FROM") or DEFAULT_SENDER)
    except ValueError as error:
        raise RunyardError(f"MAIL_FROM {error}") from None
    key = os.environ.get("SENDGRID_API_KEY")
    if not key:
        return "off: mails go into the local outbox; SENDGRID_API_KEY sends them"
    host = os.environ.get("SENDGRID_API_HOST") or SENDGRID_HOST
    answer = httpx.get(
        f"{host}/v3/scopes", headers={"Authorization": f"Bearer {key}"}, timeout=_SECONDS
    )
    if answer.status_code >= 400:
        raise ConnectionError(f"SendGrid answers {answer.status_code}: check SENDGRID_API_KEY")
    scopes = answer.json().get("scopes", [])
    return "on: SendGrid takes the key" + (
        "" if "mail.send" in scopes else ", which lacks the scope mail.send"
    )


def _texts() -> list[Check]:
    try:
        on = switched_on()
    except RunyardError as error:
        return [Check("text", False, str(error))]
    if not on:
        return [
            Check(
                "text",
                True,
                "off: texts are placeholders; GEMINI_API_KEY, OPENAI_API_KEY or OPENAI_BASE_URL switches a provider on",
            )
        ]
    return [_check(name, partial(_generator, generator)) for name, generator in on.items()]


def _generator(generator: Generator) -> str:
    return f"on: {generator.check()}"


def _media() -> str:
    store = MediaStore()
    probe = store.root / f".doctor-{uuid.uuid4().hex}"
    store.make_above(probe)
    probe.write_text("")
    probe.unlink()
    said = f"files are kept in {store.root}, previews are {preview_codecs.chosen()}"
    return (
        f"on: {said}"
        if os.environ.get("MEDIA_STORE")
        else f"off: {said}; MEDIA_STORE is another place"
    )


def _source(name: str) -> Check:
    source = sources()[name]
    on = source.address() is not None
    return Check(
        f"sync {name}",
        True,
        f"on: {len(source.table)} tables into {source.dataset}"
        if on
        else f"off: {', '.join(source.wants())} switches it on",
    )
