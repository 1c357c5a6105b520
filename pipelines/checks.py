"""The project's part of `runyard doctor`: its settings, which providers are on, and their keys.

A provider that is off passes, because a local default stands in for it.
"""

import uuid
from collections.abc import Callable, Sequence
from functools import partial

import httpx

from resources.ai.generators import Generator
from resources.ai.providers import switched_on
from resources.email.addresses import Mailbox
from resources.media import preview_codecs
from resources.media.store import MediaStore
from resources.settings import EmailSettings, MediaSettings, secret
from resources.sync.source_config import sources
from runyard.errors import RunyardError
from runyard.processes.checks import Check

_SECONDS = 10.0


def checks() -> Sequence[Check]:
    """A line for mail, each text provider, the media store and each data source."""
    lines = [_check("mail", _mail), *_texts(), _check("media", _media)]
    try:
        return [*lines, *(_source(name) for name in sources())]
    except RunyardError as error:
        return [*lines, Check("sync", False, str(error))]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (RunyardError, OSError, httpx.HTTPError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _mail() -> str:
    email = EmailSettings.read()
    try:
        Mailbox.parse(email.mail_from)
    except ValueError as error:
        raise RunyardError(f"MAIL_FROM {error}") from None
    key = secret(email.sendgrid_api_key)
    if not key:
        return "off: mail goes into the local outbox; SENDGRID_API_KEY sends it"
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{email.sendgrid_api_host}/v3/scopes"
    answer = httpx.get(url, headers=headers, timeout=_SECONDS)
    if answer.status_code >= 400:
        raise ConnectionError(f"SendGrid answers {answer.status_code}: check SENDGRID_API_KEY")
    may_send = "mail.send" in answer.json().get("scopes", [])
    return "on: SendGrid accepts the key" + (
        "" if may_send else ", which lacks the scope mail.send"
    )


def _texts() -> list[Check]:
    try:
        on = switched_on()
    except RunyardError as error:
        return [Check("text", False, str(error))]
    if not on:
        off = (
            "off: texts are placeholders; GEMINI_API_KEY, OPENAI_API_KEY or OPENAI_BASE_URL "
            "switches a provider on"
        )
        return [Check("text", True, off)]
    return [_check(name, partial(_generator, generator)) for name, generator in on.items()]


def _generator(generator: Generator) -> str:
    return f"on: {generator.check()}"


def _media() -> str:
    store = MediaStore()
    probe = store.root / f".doctor-{uuid.uuid4().hex}"
    store.make_above(probe)
    probe.write_text("")
    probe.unlink()
    place = f"files are stored in {store.root}, previews are {preview_codecs.chosen()}"
    if MediaSettings.read().media_store:
        return f"on: {place}"
    return f"off: {place}; MEDIA_STORE sets another place"


def _source(name: str) -> Check:
    source = sources()[name]
    if source.address() is None:
        return Check(f"sync {name}", True, f"off: {', '.join(source.variables())} switches it on")
    return Check(f"sync {name}", True, f"on: {len(source.table)} tables into {source.dataset}")
