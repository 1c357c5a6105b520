"""Requests to addresses that others have given: never into a private network, never more bytes than wanted.

A host is resolved here, every one of its addresses is checked, and the connection goes to an address that was checked: so a name that resolves to something else
a moment later changes nothing. Redirects are followed one at a time, through the same checks. `RUNYARD_ALLOWED_HOSTS` (`host` or `host:port`, commas between)
names those that may be private: a service in the same network, a server on the developer's machine.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from runyard.errors import NonRetriable, RetryAfter

_REDIRECTS = 5
# Addresses of IPv4 hidden in those of IPv6, which pass for public (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(NonRetriable):
    """Seen by whoever gave a URL: it is none that may be asked."""


class TooLarge(NonRetriable):
    """Seen by whoever gave a URL: what is behind it is larger than it may be."""


@contextmanager
def opened(method: str, url: str, *, seconds: float, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
    """The answer to a request, its body not read yet. A GET follows redirects.

    Raises
    ------
    Forbidden
        The URL, or a redirect, is none that may be asked.
    NonRetriable
        The server answers 4xx.
    RetryAfter
        It answers 429 or 503 and says when to come back.
    ConnectionError
        It does not answer, or answers 5xx.
    """
    with httpx.Client(timeout=seconds, trust_env=False) as client:
        for _ in range(_REDIRECTS + 1):
            request = _pinned(client, method, url, content, headers)
            try:
                response = client.send(request, stream=True)
            except httpx.HTTPError as error:
                raise ConnectionError(f"{_shown(url)} does not answer: {type(error).__name__}") from None
            try:
                if not response.has_redirect_location:
                    _check_status(response, url)
                    yield response
                    return
                if method != "GET":
                    raise Forbidden(f"{_shown(url)} redirects a {method}, which is not followed: give the URL that it leads to")
                url = str(httpx.URL(url).join(response.headers["location"]))
            finally:
                response.close()
    raise Forbidden(f"{_shown(url)} redirects more than {_REDIRECTS} times")


def read(response: httpx.Response, most: int, seconds: float) -> Iterator[bytes]:
    """The body piece by piece; raises `TooLarge` beyond `most` bytes, ConnectionError when it is cut off or takes longer than `seconds`."""
    until, size = time.monotonic() + seconds, 0
    try:
        for piece in response.iter_bytes():
            size += len(piece)
            if size > most:
                raise TooLarge(f"it has more than {most} bytes")
            if time.monotonic() > until:
                raise ConnectionError(f"it takes longer than {seconds:g} s")
            yield piece
    except httpx.HTTPError as error:
        raise ConnectionError(f"the connection was cut: {type(error).__name__}") from None


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status < 400:
        return
    wait = response.headers.get("retry-after", "")
    if status in (429, 503) and wait.isdigit():
        raise RetryAfter(f"{_shown(url)} answers {status}", float(wait))
    if status >= 500 or status in (408, 425, 429):
        raise ConnectionError(f"{_shown(url)} answers {status}")
    raise NonRetriable(f"{_shown(url)} answers {status}")


def _pinned(client: httpx.Client, method: str, url: str, content: bytes | None, headers: Mapping[str, str] | None) -> httpx.Request:
    """A request to an address of the host that was checked, under the host's name."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise Forbidden(f"{url[:200]!r} is no URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Forbidden(f"{_shown(url)} is no http or https URL")
    if parsed.userinfo:
        raise Forbidden("a URL with a user or a password is not asked")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    address = _checked_address(parsed.host, port)
    named = {**(headers or {}), "Host": parsed.netloc.decode()}
    return client.build_request(method, parsed.copy_with(host=address), content=content, headers=named, extensions={"sni_hostname": parsed.host})


def _checked_address(host: str, port: int) -> str:
    try:
        found = [str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        raise ConnectionError(f"the host {host} cannot be found") from None
    allowed = {name.strip() for name in os.environ.get("RUNYARD_ALLOWED_HOSTS", "").split(",")}
    if host not in allowed and f"{host}:{port}" not in allowed:
        for address in found:
            if not is_public(address):
                raise Forbidden(f"the host {host} is at {address}, which is not on the public internet; RUNYARD_ALLOWED_HOSTS can name hosts that may be")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, also where one of IPv4 is hidden in one of IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        hidden = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if hidden is not None:
            return is_public(str(hidden))
    return ip.is_global and not ip.is_multicast


def _shown(url: str) -> str:
    """A URL without what may be a secret: its query."""
    return url.partition("?")[0][:200]
