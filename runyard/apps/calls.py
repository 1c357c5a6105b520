"""Calls to applications over HTTP: bounded in time and size, and only to where they may go.

One client makes hundreds of calls at a time on one event loop. Its idle connections are closed
after four seconds: servers of node and uvicorn close theirs after five, and a call on a connection
that is being closed fails.
"""

import asyncio
import ipaddress
import os
import resource
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from runyard.apps.answers import MAX_ANSWER_BYTES, Answer

MAX_REDIRECTS = 10
_IDLE_SECONDS = 4.0
# Servers of node let about 500 connections wait to be accepted, and a busy one takes seconds until
# it accepts more: of thousands that begin at once some would not come about in time.
MAX_CALLS_TO_A_HOST = 1_000
_CONNECT_SECONDS = 10.0
# Redirects that keep method and body.
KEPT_REDIRECTS = (307, 308)
_CHUNK = 64 * 1024
# What a process has open beside the sockets of its calls: of the database, of Dagster, of logs.
_OTHER_FILES = 256
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # its addresses end in one of IPv4
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(OSError):
    """A call must not go to this address; the message says why, and what to do."""


class Guard(AbstractResolver):
    """Looks up host names, and refuses addresses to which no call may go.

    The address that is connected to is the one that was checked.

    Parameters
    ----------
    may_be_private
        Whether private addresses and this machine are allowed: in development.
    allowed
        Hosts that are allowed wherever they are: `host` or `host:port`.
    """

    def __init__(self, *, may_be_private: bool, allowed: Collection[str] = ()) -> None:
        self._may_be_private = may_be_private
        self._allowed = frozenset(allowed)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host; raises `Refused` when one of them is not allowed."""
        found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        for each in found:
            self.check(host, port, each["host"])
        return found

    def check(self, host: str, port: int, address: str) -> None:
        """Raise `Refused` for an address to which no call may go."""
        if {host, f"{host}:{port}"} & self._allowed:
            return
        parsed = _parsed(address)
        if parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified:
            raise Refused(f"{host} has the address {parsed}, to which no call may go")
        if not self._may_be_private and not _is_public(parsed):
            raise Refused(
                f"{host} has the address {parsed}, which is not on the public internet: to allow it"
                " all the same, list the host in RUNYARD_ALLOWED_HOSTS"
            )

    async def close(self) -> None:
        """Nothing is kept."""


def _parsed(address: str) -> _Address:
    """Return an address; one of IPv6 that stands for one of IPv4 is that one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    if parsed in _NAT64:
        return ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    return parsed.ipv4_mapped or parsed.sixtofour or parsed


def _is_public(address: _Address) -> bool:
    return address.is_global and not (address.is_reserved or address in _SITE_LOCAL)


@dataclass(frozen=True, repr=False)
class Request:
    """A request: what it holds may be secret, and is not shown."""

    method: str
    url: str
    body: bytes
    headers: Mapping[str, str]


# From a request, the status of its answer and the location: the request to send in its place.
Redirect = Callable[[Request, int, str], Request | None]


class Caller:
    """Makes calls; an async context manager. Belongs to the event loop it was entered in.

    Parameters
    ----------
    guard
        Says where calls may go.
    seconds
        How long a call may take, answer included.
    most
        How many calls there may be at a time to one host and port; others wait, as do those for
        which no more files may be opened.
    """

    def __init__(self, guard: Guard, seconds: float, most: int = MAX_CALLS_TO_A_HOST) -> None:
        self._guard = guard
        self._seconds = seconds
        self._most = most

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=_most_connections(),
            limit_per_host=self._most,
            keepalive_timeout=_IDLE_SECONDS,
            resolver=self._guard,
            use_dns_cache=False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._seconds, sock_connect=_CONNECT_SECONDS),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request to an application and return the answer; see `send`."""
        return await self.send(Request(method, url, body, headers), to_same_host)

    async def send(
        self, request: Request, redirect: Redirect, seconds: float | None = None
    ) -> Answer:
        """Send a request and return the answer; one that does not come says why.

        `redirect` returns the request with which a redirect is followed, or None to take the
        redirect itself as the answer. It may raise `Refused`. `seconds` is how long all of it may
        take, if that is less than what the client allows.
        """
        origin = origin_of(request.url)
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(request, redirect)
        except Refused as error:
            return Answer(0, problem=str(error))
        except TimeoutError:
            limit = self._seconds if seconds is None else seconds
            return Answer(0, problem=f"{origin} did not answer within {limit:g} s")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            refused = error.__cause__ or error.__context__
            said = refused if isinstance(refused, Refused) else error
            if said is refused:
                return Answer(0, problem=str(said))
            return Answer(0, problem=_words_for(error, origin))

    async def _follow(self, request: Request, redirect: Redirect) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_literal(request.url)
            # A file is sent in parts, and so holds up the other calls of the loop less than bytes.
            data = BytesIO(request.body) if request.body else None
            async with self._session.request(
                request.method,
                request.url,
                data=data,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                location = response.headers.get("location")
                following = redirect(request, response.status, location) if location else None
                if following is None:
                    return await _read(response)
            request = following
        origin = origin_of(request.url)
        return Answer(0, problem=f"{origin} redirected more than {MAX_REDIRECTS} times")

    def _check_literal(self, url: str) -> None:
        """Check a host that is an address itself: the resolver is not asked for those."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"{url[:200]!r} is not an http or https URL")
        try:
            ipaddress.ip_address(parts.hostname.partition("%")[0])
        except ValueError:
            return
        self._guard.check(parts.hostname, port_of(parts), parts.hostname)


def _most_connections() -> int:
    """Return how many connections this process may open; 0 is any number."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return 0
    return max(files // 2, files - _OTHER_FILES)


def to_same_host(request: Request, status: int, location: str) -> Request | None:
    """Follow a redirect that keeps the body, within the host.

    Raises `Refused` when a signed call must not go there.
    """
    if status not in KEPT_REDIRECTS:
        return None
    url, target = request.url, urljoin(request.url, location)
    before, after = urlsplit(url), urlsplit(target)
    if before.hostname != after.hostname or not _is_same_port(before, after):
        raise Refused(
            f"{origin_of(url)} redirects to {origin_of(target)}, another host or port: let the"
            " application register the URL at which it is served"
        )
    if before.scheme == "https" and after.scheme != "https":
        raise Refused(f"{origin_of(url)} redirects from https to http")
    return replace(request, url=target)


def _is_same_port(before: SplitResult, after: SplitResult) -> bool:
    """Whether two URLs have the same port; going from http to https changes it, and is none."""
    ports = port_of(before), port_of(after)
    return ports[0] == ports[1] or ports == (80, 443)


def port_of(parts: SplitResult) -> int:
    """Return the port of a URL, that of its scheme if it names none."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _words_for(error: Exception, origin: str) -> str:
    """Return why no answer came, and what to look at when no connection came about."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{origin} cannot be found: is its name right?"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, ssl.SSLError):
        reason = os.strerror(error.os_error.errno) if error.os_error.errno else str(error)
        return f"nothing answers at {origin} ({reason}): is it running there, on this port?"
    return f"{origin}: {str(error) or type(error).__name__}"


async def _read(response: aiohttp.ClientResponse) -> Answer:
    """Read an answer up to the limit, which counts after decompression."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return Answer(
                0, problem=f"the answer has more than {MAX_ANSWER_BYTES:,} bytes, the limit"
            )
        parts.append(chunk)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, b"".join(parts))


def origin_of(url: str) -> str:
    """Return the scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:200]
