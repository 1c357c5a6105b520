"""Requests that steps have made from here: `step.ai.infer` and `step.fetch`.

An application waits for such a request without a process of its own. What the request holds, keys
among it, is used once and forgotten: an application that is called again says it again. Keys that
an answer repeats are masked in it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urldefrag, urljoin, urlsplit

import pydantic_core

from runyard.apps.answers import Answer, Asked, Keep, MakeRequest, StepFailed, error_of, failed_try
from runyard.apps.call_loop import in_thread
from runyard.apps.calls import KEPT_REDIRECTS, Caller, Refused, Request, origin_of, port_of
from runyard.apps.trust import may_request
from runyard.engine.steps import MAX_STEP_BYTES
from runyard.errors import InvalidOption
from runyard.text.error_text import fit
from runyard.text.redaction import Redactor, without

SECONDS = 900.0
_MAX_SHOWN = 1_000
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_ANTHROPIC_VERSION = "2023-06-01"
_REDIRECTS = (301, 302, 303, *KEPT_REDIRECTS)
# Headers that belong to the connection, or are set by whoever makes the request.
_OWN_HEADERS = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
# Headers without secrets, which may follow a redirect to another origin.
_PLAIN_HEADERS = frozenset(
    [
        "accept",
        "accept-language",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "user-agent",
    ]
)
# The body of an answer is decompressed here.
_TRANSPORT_HEADERS = frozenset(
    ["connection", "content-encoding", "content-length", "transfer-encoding"]
)
_KEY_HEADERS = ("api-key", "authorization", "x-api-key", "x-goog-api-key")
_SECRET_NAMES = re.compile(
    r"key|token|secret|sig|pass|auth(?!ors?$)|credential|cookie", re.IGNORECASE
)
_LEAST_SECRET = 6
# So long a value is taken for a secret, whatever the name of its header.
_LONG_SECRET = 20
_WITHOUT_BODY = (204, 205, 304)


async def make_request(caller: Caller, wanted: MakeRequest, asked: Asked) -> Keep | StepFailed:
    """Make the request of a step, and return what it has come to.

    One that is not allowed, or makes no sense, fails for good. One to which no answer comes is
    tried again, as is one that an AI service refuses.
    """
    try:
        request = _ai_request(wanted.options) if wanted.is_ai else _request(wanted.options)
        _check_host(request.url)
    except (InvalidOption, Refused) as error:
        return Keep(wanted.step, {"error": _error(wanted, str(error))})
    redirects = _Redirects(request.url, may_leave=not wanted.is_ai)
    answer = await caller.send(request, redirects.follow, SECONDS)
    masked = without(set(_secrets(request, wanted.options)))
    # An answer may have megabytes, and must not hold up the other calls of the loop.
    if wanted.is_ai:
        return await in_thread(lambda: _of_ai(wanted, answer, asked, masked))
    return await in_thread(lambda: _of_fetch(wanted, answer, asked, masked, redirects.url))


def _of_ai(
    wanted: MakeRequest, answer: Answer, asked: Asked, masked: Redactor
) -> Keep | StepFailed:
    text = masked(answer.body.decode("utf-8", "replace"))
    shown = fit(" ".join(text.split()), _MAX_SHOWN) or "nothing"
    if not answer.status:
        problem = masked(answer.problem)
    elif answer.status > 299:
        problem = f"the AI service answered HTTP {answer.status}: {shown}"
    else:
        try:
            return _kept(wanted, pydantic_core.from_json(text, allow_inf_nan=False), len(text))
        except ValueError:
            problem = f"the answer of the AI service is no JSON, but {shown}"
    return _failed_try(wanted, problem, answer, asked)


def _of_fetch(
    wanted: MakeRequest, answer: Answer, asked: Asked, masked: Redactor, url: str
) -> Keep | StepFailed:
    if not answer.status:
        return _failed_try(wanted, masked(answer.problem), answer, asked)
    body = masked(answer.body.decode("utf-8", "replace"))
    data = {
        "url": masked(url),
        "status_code": answer.status,
        "headers": {
            name: masked(value)
            for name, value in answer.headers.items()
            if name not in _TRANSPORT_HEADERS
        },
        # The SDK makes a response of it, which with these statuses must have none.
        "body": None if answer.status in _WITHOUT_BODY and not body else body,
    }
    return _kept(wanted, data, len(body))


def _kept(wanted: MakeRequest, data: object, size: int) -> Keep:
    if size > MAX_STEP_BYTES:
        message = f"the answer has {size:,} characters, more than a step can keep (4 MiB)"
        return Keep(wanted.step, {"error": _error(wanted, message)})
    return Keep(wanted.step, {"data": data})


def _failed_try(
    wanted: MakeRequest, problem: str, answer: Answer, asked: Asked
) -> Keep | StepFailed:
    return failed_try(wanted.step, _error(wanted, problem), answer, asked, datetime.now(UTC))


def _error(wanted: MakeRequest, message: str) -> Mapping[str, Any]:
    return error_of("AIGatewayError" if wanted.is_ai else "GatewayError", message)


def _ai_request(options: Mapping[str, Any]) -> Request:
    """Return the request to an AI service; raises `InvalidOption`."""
    url, headers = _url(options), _headers(options)
    key = options.get("auth_key")
    headers.setdefault("content-type", "application/json")
    if options.get("format") == "anthropic":
        headers.setdefault("anthropic-version", _ANTHROPIC_VERSION)
    if isinstance(key, str) and key and not _has_key(url, headers):
        headers.update(_key_header(str(options.get("format")), _header_value("auth_key", key)))
    return Request("POST", url, json.dumps(options.get("body")).encode(), headers)


def _key_header(format: str, key: str) -> Mapping[str, str]:
    match format:
        case "anthropic":
            return {"x-api-key": key}
        case "gemini":
            return {"x-goog-api-key": key}
        case "azure-openai":
            return {"api-key": key}
        case _:
            return {"authorization": f"Bearer {key}"}


def _has_key(url: str, headers: Mapping[str, str]) -> bool:
    """Whether the application has put the key where it belongs already."""
    return any(name in headers for name in _KEY_HEADERS) or any(
        name == "key" for name, _ in parse_qsl(urlsplit(url).query)
    )


def _request(options: Mapping[str, Any]) -> Request:
    """Return the request to any URL; raises `InvalidOption`."""
    method, body = options.get("method") or "GET", options.get("body")
    if not isinstance(method, str) or method.upper() not in _METHODS:
        raise InvalidOption(f"the method is not one of {', '.join(_METHODS)}")
    if not isinstance(body, str | None):
        raise InvalidOption("the body must be text: make one of it, or send it in step.run")
    headers = _headers(options)
    if body:
        headers.setdefault("content-type", "text/plain;charset=UTF-8")
    content = (body or "").encode("utf-8", "replace")
    return Request(method.upper(), _url(options), content, headers)


def _url(options: Mapping[str, Any]) -> str:
    url = options.get("url")
    try:
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        is_whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not isinstance(url, str):
        raise InvalidOption("what is requested must be a whole URL: http or https, with a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidOption("the URL has a user: send the header Authorization in place of it")
    return urldefrag(url).url


def _headers(options: Mapping[str, Any]) -> dict[str, str]:
    given = options.get("headers") or {}
    if not isinstance(given, dict):
        raise InvalidOption("the headers of the request are not an object")
    headers: dict[str, str] = {}
    for name, value in given.items():
        if not _HEADER.fullmatch(name):
            raise InvalidOption(f"a header has a name that is none: {name[:50]!r}")
        if name.lower() not in _OWN_HEADERS and value is not None:
            headers[name.lower()] = _header_value(f"header {name.lower()}", value)
    return headers


def _header_value(what: str, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", text):
        raise InvalidOption(f"{what} has a value that no header can have")
    return text.strip()


def _check_host(url: str) -> None:
    """Raise `Refused` for a host that steps may not have requested from here."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", port_of(parts)
    if not may_request(host, port):
        raise Refused(
            f"steps may not have {host[:200]} requested from here: list it in"
            " RUNYARD_GATEWAY_HOSTS, or make the request in step.run"
        )


class _Redirects:
    """Follows redirects, as browsers do, but without anything secret to another origin.

    Parameters
    ----------
    url
        Where the request goes first; then where it went last.
    may_leave
        Whether another origin may be asked at all.
    """

    def __init__(self, url: str, *, may_leave: bool) -> None:
        self.url = url
        self._may_leave = may_leave

    def follow(self, request: Request, status: int, location: str) -> Request | None:
        """Return the request that follows; raises `Refused`."""
        if status not in _REDIRECTS or (status not in KEPT_REDIRECTS and not self._may_leave):
            return None
        target = urldefrag(urljoin(request.url, location)).url
        before, after = urlsplit(request.url), urlsplit(target)
        if before.scheme == "https" and after.scheme != "https":
            raise Refused(f"{origin_of(request.url)} redirects from https to http")
        _check_host(target)
        if status not in KEPT_REDIRECTS and (status == 303 or request.method == "POST"):
            request = _without_body(request)
        if _origin(before) != _origin(after):
            if request.body or not self._may_leave:
                raise Refused(
                    f"{origin_of(request.url)} redirects to {origin_of(target)}, which must not get"
                    " what is sent: use the other URL itself"
                )
            headers = {
                name: request.headers[name] for name in _PLAIN_HEADERS & set(request.headers)
            }
            request = replace(request, headers=headers)
        self.url = target
        return replace(request, url=target)


def _without_body(request: Request) -> Request:
    headers = {name: text for name, text in request.headers.items() if name != "content-type"}
    method = "HEAD" if request.method == "HEAD" else "GET"
    return Request(method, request.url, b"", headers)


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, port_of(parts)


def _secrets(request: Request, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must not be kept or shown of a request: keys, and headers that may hold some."""
    others = {name: text for name, text in request.headers.items() if name not in _PLAIN_HEADERS}
    values = [
        text
        for name, text in others.items()
        if _SECRET_NAMES.search(name) or len(text) >= _LONG_SECRET
    ]
    values += [
        value
        for name, value in parse_qsl(urlsplit(request.url).query)
        if _SECRET_NAMES.search(name)
    ]
    if isinstance(options.get("auth_key"), str):
        values.append(options["auth_key"].strip())
    for value in values:
        # What stands behind `Bearer`, by itself.
        for secret in (value, value.partition(" ")[2].strip()):
            if len(secret) >= _LEAST_SECRET:
                yield secret
