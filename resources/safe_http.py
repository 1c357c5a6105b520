"""Requests to URLs that others provide: never into a private network, limited in time and bytes.

A host is resolved here, every one of its addresses is checked, and the connection goes to a checked
address. So a name that resolves to something else a moment later changes nothing. Redirects are
followed one at a time, through the same checks. RUNYARD_ALLOWED_HOSTS names hosts (`host` or
`host:port`, separated by commas) that may be private: a service in the same network, or a server on
the developer's machine.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from resources.bounded_http import BoundedTransport, Bounds, TooLarge
from runyard.errors import NonRetriable, RetryAfter
from runyard.settings import AppSettings

_REDIRECTS = 5
_LONGEST_HOST = 253
# The host and port of a URL as written, without a user; of a relative URL too.
_HOST_AND_PORT = re.compile(r"(?:[^:/?#]*:)?//(?:[^/?#]*@)?([^/?#]*)")
_PORT_AT_ITS_END = re.compile(r":(?![0-9]*\Z)[^\]]*\Z")
# Headers of an answer and of its redirects; the package accepts 100 KiB of each.
_HEADER_BYTES = 1 << 20
# IPv4 addresses embedded in IPv6, which look public (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that is assigned to networks of the internet. Whatever else looks public leads to IPv4
# addresses, or to nothing: ::/96, ::ffff:0:0:0/96 and 64:ff9b:1::/48.
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")
# From IANA's registries of special-purpose addresses, regardless of what this Python knows of them.
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
        "192.88.99.0/24",  # 6to4 relays, now defunct
        "168.63.129.16/32",  # Azure's metadata for its machines, in a public range
        "2001::/23",  # IETF protocols, among them Teredo
        "2001:db8::/32",
        "3fff::/20",
        "2002::/16",  # 6to4
    )
]


class Forbidden(NonRetriable):
    """The URL, or where it leads, must not be requested."""


class Compressed(NonRetriable):
    """The server compresses its answer although asked not to, so its real size is unknown."""


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
    """The answer to a request, its body not read yet. A GET follows redirects.

    Where a redirect leads to another host or port, neither `headers` nor cookies are sent there.
    `seconds` covers all of it: resolving the host, connecting, redirects, headers, and the body as
    `read` yields it. `most` is the largest body in bytes.
    Raises
    ------
    Forbidden
        The URL, or a redirect, must not be requested.
    NonRetriable
        The server answers 4xx.
    RetryAfter
        It answers 429 or 503 with a Retry-After.
    ConnectionError
        It does not answer in time, or answers 5xx.
    """
    # Twice the size, because a body may come in small chunks, each with its length before it.
    bounds = Bounds(seconds, 2 * most + _HEADER_BYTES)
    transport = BoundedTransport(bounds)
    with httpx.Client(transport=transport, timeout=seconds, trust_env=False) as client:
        for _ in range(_REDIRECTS + 1):
            request = _pinned(client, method, url, content, headers, bounds)
            try:
                # The client's own `send` would also prepare the request of a redirect, to a host
                # that has not been checked.
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
                        f"{_shown(url)} redirects a {method}, which is not followed: use the URL "
                        "that it leads to"
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
    """The body piece by piece, as it arrives.

    Raises
    ------
    TooLarge
        It has more than `most` bytes.
    Compressed
        It is compressed.
    ConnectionError
        It is cut off, or takes longer than `opened` allows.
    """
    encoding = response.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise Compressed(
            f"it comes compressed ({encoding[:40]}), which was not requested: use the URL of a "
            "server that sends it uncompressed"
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
                f"{_shown(url)} redirects to {_shown(location)!r}, "
                "which is not an http or https URL"
            )
        joined = str(httpx.URL(url).join(location))
        _parsed(joined)
    except (httpx.InvalidURL, ValueError):
        shown = _shown(location)
        raise Forbidden(f"{_shown(url)} redirects to {shown!r}, which is not a URL") from None
    return joined


def _parsed(url: str) -> httpx.URL:
    """Parse a URL completely; raises `httpx.InvalidURL` or `ValueError`.

    The package checks some parts only when they are used.
    """
    parsed = httpx.URL(url)
    written = _HOST_AND_PORT.match(url)
    if written is not None and _PORT_AT_ITS_END.search(written[1]):
        raise ValueError("a port is written in the digits 0 to 9")
    _ = parsed.host  # decodes it
    return parsed


def _server(url: str) -> tuple[str, bytes, int]:
    """The server of a URL: headers and cookies for one server are not sent to another."""
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
    """A request to a checked address of the host, under the host's name."""
    try:
        parsed = _parsed(url)
    except (httpx.InvalidURL, ValueError):
        raise Forbidden(f"{url[:200]!r} is not a URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Forbidden(f"{_shown(url)} is not an http or https URL")
    if parsed.userinfo:
        raise Forbidden("a URL with a user name or a password is not allowed")
    # In the form that is sent and that TLS checks: the system's resolver encodes names differently.
    host, port = parsed.raw_host.decode("ascii"), _port(parsed)
    if len(host) > _LONGEST_HOST or not 0 < port <= 65_535:
        raise Forbidden(
            f"{_shown(url)} has an invalid host or port: a host name has at most {_LONGEST_HOST} "
            "characters, a port is from 1 to 65535"
        )
    address = _checked_address(host, port, bounds, {host, parsed.host})
    # Bytes are counted as they arrive, so they must not be compressed.
    named = {**(headers or {}), "Host": parsed.netloc.decode(), "Accept-Encoding": "identity"}
    return client.build_request(
        method,
        parsed.copy_with(host=address),
        content=content,
        headers=named,
        extensions={"sni_hostname": host},
    )


def _checked_address(host: str, port: int, bounds: Bounds, names: set[str]) -> str:
    """One address of a host, all of whose addresses must be allowed.

    `names` are the spellings of the host in RUNYARD_ALLOWED_HOSTS.
    """
    addresses = _addresses(host, port, bounds)
    allowed = set(AppSettings().allowed_hosts)
    is_allowed = bool(allowed & {*names, *(f"{name}:{port}" for name in names)})
    if not is_allowed and not all(map(is_public, addresses)):
        # The addresses stay out of the message: the name may be one of our own network.
        raise Forbidden(
            f"the host {host} is not on the public internet; RUNYARD_ALLOWED_HOSTS can list hosts "
            "that are allowed all the same"
        )
    return addresses[0]


def _addresses(host: str, port: int, bounds: Bounds) -> list[str]:
    """The addresses of a host, at least one.

    The system's resolver has no timeout. It gets a thread, which ends when the resolver gives up.
    """
    addresses: list[str] = []
    errors: list[Exception] = []

    def look_up() -> None:
        try:
            addresses.extend(
                str(info[4][0]).partition("%")[0]
                for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, ValueError) as error:
            errors.append(error)

    thread = threading.Thread(target=look_up, daemon=True, name="look-up of a host")
    thread.start()
    thread.join(bounds.seconds_left(ConnectionError))
    if errors and isinstance(errors[0], ValueError):  # a part of the name is empty or too long
        raise Forbidden(f"{host!r} is not a host name")
    if thread.is_alive() or not addresses:
        raise ConnectionError(f"the host {host} cannot be found")
    return list(addresses)


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, including IPv4 embedded in IPv6."""
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
    """A URL without its query, which may contain a secret."""

    return url.partition("?")[0][:200]
