"""What an application registers: itself and its functions, from the body of its registration.

One function that is wrong refuses all of them, so that an application never runs with half of what
it says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pydantic_core

from runyard.apps.canonical_json import canonical
from runyard.apps.fields import Fields, InvalidField
from runyard.apps.options import Schedule, flow_of, retry_of, schedules_of, triggers_of
from runyard.errors import InvalidOption
from runyard.functions.registry import Function
from runyard.syntax.durations import quoted
from runyard.text.storable import make_storable

MAX_BYTES = 4 * 1024 * 1024
MAX_FUNCTIONS = 1_000
MAX_NAME = 200
_MAX_URL = 2_000
_MAX_WARNINGS = 50
# Part of every digest: another number makes all applications register their functions again,
# because options are understood otherwise than before.
_MAPPING = 1
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_]")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_FORGES_EVENTS = re.compile(r"js:v?3\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class AppFunction:
    """A function that an application serves.

    Attributes
    ----------
    slug
        Its id in the protocol: `shop-hello`.
    title
        What people call it.
    url
        Where it is called.
    function
        What starts it, and how. Its name is made from the slug.
    schedules
        Its cron triggers.
    definition
        As it was registered.
    """

    slug: str
    title: str
    url: str
    function: Function
    schedules: tuple[Schedule, ...]
    definition: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Identifies what was registered."""
        return _digest(self.slug, self.url, self.definition)


@dataclass(frozen=True)
class App:
    """An application and its functions.

    Attributes
    ----------
    name
        Its id.
    url
        Where it is served.
    sdk, framework, version
        What it says about itself: `js:v4.24.0`, `nextjs`, its own version.
    functions
        All of its functions.
    warnings
        What is done otherwise than it says, in words.
    """

    name: str
    url: str
    sdk: str
    framework: str
    version: str
    functions: tuple[AppFunction, ...]
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies the registration: the same one again changes nothing."""
        functions = sorted(function.digest for function in self.functions)
        return _digest(self.name, self.url, self.sdk, self.framework, self.version, functions)


class InvalidRegistration(InvalidOption):
    """A registration is refused.

    Attributes
    ----------
    app, url
        The application that it is about, if that much can be read.
    """

    def __init__(self, message: str, app: str = "", url: str = "") -> None:
        super().__init__(message)
        self.app = app
        self.url = url


def parse_registration(body: bytes) -> App:
    """Return what an application registers, from the body of its request.

    That is the body of `/fn/register`, or what an application answers to an in-band sync. Raises
    `InvalidRegistration`, in words that name the function and the field.
    """
    try:
        fields = Fields(_parse(body), "the registration")
        name = fields.needed_text("appName" if fields.value("appName") else "app_id", MAX_NAME)
        url = _served_at(fields.needed_text("url", _MAX_URL), fields.at("url"))
    except InvalidOption as error:
        raise InvalidRegistration(str(error)) from None
    try:
        return _app(fields, name, url)
    except InvalidOption as error:
        raise InvalidRegistration(f"at least one function is invalid: {error}", name, url) from None


def parse_function(slug: str, app_url: str, definition: Mapping[str, Any]) -> AppFunction:
    """Return a function as it was registered; raises `InvalidOption` if it no longer can be."""
    return _function(definition, app_url, [], Fields(definition, f"function {slug}"))


def function_name(slug: str) -> str:
    """Return the name of a function here, from its id in the protocol."""
    return _NOT_IN_A_NAME.sub("_", slug)


def checked_url(text: str, place: str) -> str:
    """Return a URL that can be called, without its default port; raises `InvalidField`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_text = text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_text:
        raise InvalidField(f"{place}: {quoted(text)} is not an http or https URL")
    if parts.username is not None:
        raise InvalidField(f"{place}: leave the user and the password out of the URL")
    host = "localhost" if parts.hostname == "0.0.0.0" else parts.hostname  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    is_default = port is None or port == (443 if parts.scheme == "https" else 80)
    netloc = shown if is_default else f"{shown}:{port}"
    return urlunsplit(parts._replace(netloc=netloc, fragment=""))


def host_of(url: str) -> str:
    """Return the host of a URL; the names of this machine are one."""
    host = urlsplit(url).hostname or ""
    return "localhost" if host in (*_THIS_MACHINE, "0.0.0.0") else host  # noqa: S104


def shown_url(url: str) -> str:
    """Return a URL without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def spellings(url: str) -> list[str]:
    """Return a URL as `checked_url` does, with every name of this machine if it is on it."""
    checked = checked_url(url, "the URL")
    if host_of(checked) != "localhost":
        return [checked]
    parts = urlsplit(checked)
    port = "" if parts.port is None else f":{parts.port}"
    hosts = (f"[{host}]" if ":" in host else host for host in _THIS_MACHINE)
    return [urlunsplit(parts._replace(netloc=f"{host}{port}")) for host in hosts]


def _parse(body: bytes) -> Any:
    if len(body) > MAX_BYTES:
        raise InvalidField(
            f"the registration has {len(body):,} bytes, and the limit is {MAX_BYTES:,} (4 MiB)"
        )
    try:
        return make_storable(pydantic_core.from_json(body, allow_inf_nan=False))
    except ValueError as error:
        raise InvalidField(f"the registration is no JSON: {str(error)[:200]}") from None


def _app(fields: Fields, name: str, url: str) -> App:
    listed = fields.value("functions") or []
    if not isinstance(listed, list):
        raise InvalidField(f"{fields.at('functions')}: give a list")
    if len(listed) > MAX_FUNCTIONS:
        raise InvalidField(
            f"{fields.at('functions')}: there are {len(listed):,}, and the limit is"
            f" {MAX_FUNCTIONS:,}; serve the others from another application"
        )
    sdk = _sdk(fields)
    warnings = _warnings_about(sdk)
    functions: dict[str, AppFunction] = {}
    for number, definition in enumerate(listed):
        named = Fields(definition, f"functions[{number}]").needed_text("id", MAX_NAME)
        function = _function(definition, url, warnings, Fields(definition, f"function {named}"))
        if function.slug in functions:
            raise InvalidField(f"function {named}: there are two of this id; rename one")
        functions[function.slug] = function
    return App(
        name=name,
        url=url,
        sdk=sdk,
        framework=fields.text("framework") or "",
        version=fields.text("appVersion") or "",
        functions=tuple(functions.values()),
        warnings=tuple(warnings[:_MAX_WARNINGS]),
    )


def _function(
    definition: Mapping[str, Any], app_url: str, warnings: list[str], fields: Fields
) -> AppFunction:
    slug = fields.needed_text("id", MAX_NAME)

    def warn(text: str) -> None:
        warnings.append(f"{slug}: {text}")

    triggers, schedules = triggers_of(fields), schedules_of(fields)
    name = function_name(slug)
    with fields.option():
        function = Function(
            name=name,
            job=name,
            triggers=triggers,
            retry=retry_of(fields, warn),
            flow=flow_of(fields),
            scheduled=bool(schedules),
            remote=True,
        )
    title = fields.text("name") or slug
    url = _url_of(fields) or app_url
    kept = {
        option: _as_kept(value) if option.lower() == "steps" else value
        for option, value in definition.items()
    }
    return AppFunction(slug, title, url, function, schedules, kept)


def _url_of(fields: Fields) -> str | None:
    """Return where a function is called; None when it does not say."""
    steps = fields.value("steps")
    if not isinstance(steps, dict) or not steps:
        return None
    step = Fields(next(iter(steps.values())), fields.at("steps.step"))
    runtime = step.object("runtime")
    if runtime is None:
        return None
    if (runtime.text("type") or "http").lower() != "http":
        raise InvalidField(
            f"{runtime.at('type')}: connections over a WebSocket (connect) are not supported here;"
            " serve the application over HTTP"
        )
    url = runtime.text("url", _MAX_URL)
    return None if url is None else _served_at(url, runtime.at("url"))


def _served_at(text: str, place: str) -> str:
    """Return a URL that an application says it is served at; raises `InvalidField`."""
    return checked_url(_without_deploy_id(text), place)


def _without_deploy_id(url: str) -> str:
    """Return a URL without what the application was asked with.

    The SDK for JavaScript leaves that in: each registration would differ from the one before.
    """
    address, mark, query = url.partition("?")
    kept = [part for part in query.split("&") if not part.startswith("deployId=")]
    return f"{address}{mark}{'&'.join(kept)}" if any(kept) else address


def _as_kept(value: Any) -> Any:
    """Return a part of a definition with all URLs in it as `_without_deploy_id` has them."""
    if isinstance(value, dict):
        return {name: _as_kept(each) for name, each in value.items()}
    is_url = isinstance(value, str) and "deployId=" in value
    return _without_deploy_id(value) if is_url else value


def _sdk(fields: Fields) -> str:
    if sdk := fields.text("sdk"):
        return sdk
    language, version = fields.text("sdk_language"), fields.text("sdk_version")
    return f"{language or '?'}:v{version}" if version else language or ""


def _warnings_about(sdk: str) -> list[str]:
    match = _FORGES_EVENTS.match(sdk)
    if match and (22, 0) <= (int(match[1]), int(match[2])) <= (53, 1):
        return [
            f"the SDK {sdk[4:]} has a security problem (CVE-2026-42047): update it to 3.54 or later"
        ]
    return []


def _digest(*parts: Any) -> str:
    return sha256(canonical([_MAPPING, *parts]).encode()).hexdigest()
