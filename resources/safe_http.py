"""Requests to addresses that others have given: never into a private network, never longer and never more bytes than wanted.

A host is resolved here, every one of its addresses is checked, and the connection goes to an address that was checked: so a name that resolves to something else
a moment later changes nothing. Redirects are followed one at a time, through the same checks. `RUNYARD_ALLOWED_HOSTS` (`host` or `host:port`, commas between)
names those that may be private: a service in the same network, a server on the developer's machine.
"""

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from resources.bounded_http import BoundedTransport, Bounds, TooLarge
from runyard.errors import NonRetriable, RetryAfter

_REDIRECTS = 5
_LONGEST_HOST = 253
# The host and port of a URL as they are written, a user before them left out; of a relative one too.
_HOST_AND_PORT = re.compile(r"(?:[^:/?#]*:)?//(?:[^/?#]*@)?([^/?#]*)")
_PORT_AT_ITS_END = re.compile(r":(?![0-9]*\Z)[^\]]*\Z")
# Headers of an answer and of the redirects before it; the package takes 100 KiB of each.
_HEADER_BYTES = 1 << 20
# Addresses of IPv4 hidden in those of IPv6, which pass for public (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that is given to networks of the internet. What else looks public leads to addresses of IPv4, or to nothing: ::/96, ::ffff:0:0:0/96 and 64:ff9b:1::/48.
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")
# From IANA's registries of special-purpose addresses, whatever this Python knows of them.
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "192.88.99.0/24",  # relays of 6to4, which have ended
        "168.63.129.16/32",  # what a machine in Azure asks about itself: it passes for public
        "2001::/23",  # protocols of the IETF, Teredo among them
        "2001:db8::/32",
        "3fff::/20",
        "2002::/16",  # 6to4
    )
]


class Forbidden(NonRetriable):
    """Seen by whoever gave a URL: it is none that may be asked."""


class Compressed(NonRetriable):
    """Seen by whoever gave a URL: its server compresses what it was asked to send as it is, and nobody knows how large that becomes."""


@contextmanager
def opened(
    method: str,
    url: str,
    *,
    seconds: float,
    most: int = 0,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[httpx.Response]:
    """The answer to a request, its body not read yet. A GET follows redirects, whose bodies are not read.

    Where one leads to another host or port, neither `headers` nor the cookies of the server before are sent there.

    `seconds` are for all of it: looking up the host, connecting, redirects, headers, and the body as `read` gives it; `most` is how many bytes of a body are wanted.

    Raises
    ------
    Forbidden
        The URL, or a redirect, is none that may be asked.
    NonRetriable
        The server answers 4xx.
    RetryAfter
        It answers 429 or 503 and says when to come back.
    ConnectionError
        It does not answer, not in time, or answers 5xx.
    """
    # Twice, for a body may come in small pieces, each with its size before it.
    bounds = Bounds(seconds, 2 * most + _HEADER_BYTES)
    transport = BoundedTransport(bounds)
    with httpx.Client(transport=transport, timeout=seconds, trust_env=False) as client:
        for _ in range(_REDIRECTS + 1):
            request = _pinned(client, method, url, content, headers, bounds)
            try:
                # Not by the client's `send`: that makes the request of a redirect itself, to addresses that nobody has checked.
                response = transport.handle_request(request)
            except httpx.TimeoutException:
                raise ConnectionError(f"{_shown(url)} takes longer than {seconds:g} s") from None
            except httpx.HTTPError as error:
                raise ConnectionError(
                    f"{_shown(url)} does not answer: {type(error).__name__}"
                ) from None
            response.request = request
            try:
                if not response.has_redirect_location:
                    _check_status(response, url)
                    yield response
                    return
                if method != "GET":
                    raise Forbidden(
                        f"{_shown(url)} redirects a {method}, which is not followed: give the URL that it leads to"
                    )
                before, url = url, _joined(url, response.headers["location"])
                if _server(before) == _server(url):
                    client.cookies.extract_cookies(response)
                else:
                    headers = None
                    client.cookies.clear()
            finally:
                response.close()
    raise Forbidden(f"{_shown(url)} redirects more than {_REDIRECTS} times")


def read(response: httpx.Response, most: int) -> Iterator[bytes]:
    """The body piece by piece, as it comes.

    Raises
    ------
    TooLarge
        It has more than `most` bytes.
    Compressed
        It comes compressed.
    ConnectionError
        It is cut off, or takes longer than `opened` was given.
    """
    encoding = response.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise Compressed(
            f"it comes compressed ({encoding[:40]}), which it was not asked for: give the URL of a server that sends it as it is"
        )
    length, size = response.headers.get("content-length", ""), 0
    if length.isascii() and length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise TooLarge(f"it has more than {most} bytes")
    try:
        for piece in response.iter_raw():
            size += len(piece)
            if size > most:
                raise TooLarge(f"it has more than {most} bytes")
            yield piece
    except httpx.TimeoutException:
        raise ConnectionError(
            f"it takes longer than {response.request.extensions['timeout']['read']:g} s"
        ) from None
    except httpx.HTTPError as error:
        raise ConnectionError(f"the connection was cut: {type(error).__name__}") from None


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status < 400:
        return
    wait = response.headers.get("retry-after", "")
    if status in (429, 503) and wait.isascii() and wait.isdecimal():
        raise RetryAfter(f"{_shown(url)} answers {status}", float(wait))
    if status >= 500 or status in (408, 425, 429):
        raise ConnectionError(f"{_shown(url)} answers {status}")
    raise NonRetriable(f"{_shown(url)} answers {status}")


def _joined(url: str, location: str) -> str:
    try:
        target = _parsed(location)
        if target.scheme and (
            target.scheme not in ("http", "https") or not location.partition(":")[2].startswith("/")
        ):
            raise Forbidden(
                f"{_shown(url)} redirects to {_shown(location)!r}, which is no http or https URL"
            )
        joined = str(httpx.URL(url).join(location))
        _parsed(joined)
    except (httpx.InvalidURL, ValueError):
        raise Forbidden(
            f"{_shown(url)} redirects to {_shown(location)!r}, which is no URL"
        ) from None
    return joined


def _parsed(url: str) -> httpx.URL:
    """A URL whose parts can be read; raises `httpx.InvalidURL`, or `ValueError` for what the package does not look at before they are asked for."""
    parsed = httpx.URL(url)
    written = _HOST_AND_PORT.match(url)
    if written is not None and _PORT_AT_ITS_END.search(written[1]):
        raise ValueError("a port is written in the digits 0 to 9")
    _ = parsed.host  # decoded at this moment
    return parsed


def _server(url: str) -> tuple[str, bytes, int]:
    """Whom a URL asks: what may be told to one server is not for another."""
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.raw_host, _port(parsed)


def _port(parsed: httpx.URL) -> int:
    return (443 if parsed.scheme == "https" else 80) if parsed.port is None else parsed.port


def _pinned(
    client: httpx.Client,
    method: str,
    url: str,
    content: bytes | None,
    headers: Mapping[str, str] | None,
    bounds: Bounds,
) -> httpx.Request:
    """A request to an address of the host that was checked, under the host's name."""
    try:
        parsed = _parsed(url)
    except (httpx.InvalidURL, ValueError):
        raise Forbidden(f"{url[:200]!r} is no URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Forbidden(f"{_shown(url)} is no http or https URL")
    if parsed.userinfo:
        raise Forbidden("a URL with a user or a password is not asked")
    # As it is sent and checked by TLS: the system's look-up has another, older way to write a name in ASCII.
    host, port = parsed.raw_host.decode("ascii"), _port(parsed)
    if len(host) > _LONGEST_HOST or not 0 < port <= 65_535:
        raise Forbidden(
            f"{_shown(url)} has no host and port that could be: a name has {_LONGEST_HOST} characters at most, a port is from 1 to 65535"
        )
    address = _checked_address(host, port, bounds, {host, parsed.host})
    # Bytes are counted as they come: so they must come as they are.
    named = {**(headers or {}), "Host": parsed.netloc.decode(), "Accept-Encoding": "identity"}
    return client.build_request(
        method,
        parsed.copy_with(host=address),
        content=content,
        headers=named,
        extensions={"sni_hostname": host},
    )


def _checked_address(host: str, port: int, bounds: Bounds, names: set[str]) -> str:
    """One of a host's addresses, all of which may be asked; `names` are the ways to write it in RUNYARD_ALLOWED_HOSTS."""
    found = _addresses(host, port, bounds)
    allowed = {name.strip() for name in os.environ.get("RUNYARD_ALLOWED_HOSTS", "").split(",")}
    if not allowed & {*names, *(f"{name}:{port}" for name in names)} and not all(
        map(is_public, found)
    ):
        # Where the name leads is nothing for whoever gave it: it may be a name of our own network.
        raise Forbidden(
            f"the host {host} is not on the public internet; RUNYARD_ALLOWED_HOSTS can name hosts that may be asked all the same"
        )
    return found[0]


def _addresses(host: str, port: int, bounds: Bounds) -> list[str]:
    """The addresses of a host, at least one. The system's look-up knows no deadline: it gets a thread, which ends when the system gives up."""
    found: list[str] = []
    wrong: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(
                str(info[4][0]).partition("%")[0]
                for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, ValueError) as error:
            wrong.append(error)

    looking = threading.Thread(target=look_up, daemon=True, name="look-up of a host")
    looking.start()
    looking.join(bounds.seconds_left(ConnectionError))
    if wrong and isinstance(wrong[0], ValueError):  # a part of the name is empty or too long
        raise Forbidden(f"{host!r} is no name of a host")
    if looking.is_alive() or not found:
        raise ConnectionError(f"the host {host} cannot be found")
    return list(found)


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, also where one of IPv4 is hidden in one of IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        hidden = ip.ipv4_mapped or (
            ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        )
        if hidden is not None:
            return is_public(str(hidden))
        if ip not in _IPV6_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def _shown(url: str) -> str:
    """A URL without what may be a secret: its query."""
    return url.partition("?")[0][:200]
