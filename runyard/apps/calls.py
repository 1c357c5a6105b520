"""Calls to applications over HTTP: bounded in time and size, and only to where they may go.

One client makes hundreds of calls at a time on one event loop. Its idle connections are closed
after four seconds: servers of node and uvicorn close theirs after five, and a call on a connection
that is being closed fails.
"""

import ipaddress
import socket
import ssl
from collections.abc import Collection, Mapping
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from runyard.apps.answers import MAX_ANSWER_BYTES, Answer

MAX_REDIRECTS = 10
_IDLE_SECONDS = 4.0
# Servers of node let about 500 connections wait to be accepted, and a busy one takes seconds until
# it accepts more: of thousands that begin at once some would not come about in time.
MAX_CALLS_TO_A_HOST = 1_000
_CONNECT_SECONDS = 10.0
_KEPT_REDIRECTS = (307, 308)
_CHUNK = 64 * 1024
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
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host; raises `Refused` when one of them is not allowed."""
        found = await self._resolver.resolve(host, port, family)
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
        if not self._may_be_private and not parsed.is_global:
            raise Refused(
                f"{host} has the address {parsed}, which is not on the public internet: if the"
                " application is there, list its host in RUNYARD_ALLOWED_HOSTS"
            )

    async def close(self) -> None:
        """Nothing is kept."""


def _parsed(address: str) -> _Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


class Caller:
    """Makes calls; an async context manager. Belongs to the event loop it was entered in.

    Parameters
    ----------
    guard
        Says where calls may go.
    seconds
        How long a call may take, answer included.
    most
        How many calls there may be at a time to one host and port; others wait.
    """

    def __init__(self, guard: Guard, seconds: float, most: int = MAX_CALLS_TO_A_HOST) -> None:
        self._guard = guard
        self._seconds = seconds
        self._most = most

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
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
        """Send a request and return the answer; one that does not come says why."""
        try:
            return await self._follow(method, url, body, headers)
        except Refused as error:
            return Answer(0, problem=str(error))
        except TimeoutError:
            return Answer(0, problem=f"{_origin(url)} did not answer within {self._seconds:g} s")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            refused = error.__cause__ or error.__context__
            said = refused if isinstance(refused, Refused) else error
            text = str(said) or type(said).__name__
            return Answer(0, problem=text if said is refused else f"{_origin(url)}: {text}")

    async def _follow(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_literal(url)
            # A file is sent in parts, and so holds up the other calls of the loop less than bytes.
            data = BytesIO(body) if body else None
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                location = response.headers.get("location")
                if response.status not in _KEPT_REDIRECTS or location is None:
                    return await _read(response)
                url = _next_url(url, location)
        return Answer(0, problem=f"{_origin(url)} redirected more than {MAX_REDIRECTS} times")

    def _check_literal(self, url: str) -> None:
        """Check a host that is an address itself: the resolver is not asked for those."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"{url[:200]!r} is no http or https URL")
        try:
            ipaddress.ip_address(parts.hostname.partition("%")[0])
        except ValueError:
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._guard.check(parts.hostname, port, parts.hostname)


def _next_url(url: str, location: str) -> str:
    """Return where a redirect leads; raises `Refused` when a signed call must not go there."""
    target = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(target)
    if before.hostname != after.hostname:
        raise Refused(
            f"{_origin(url)} redirects to {_origin(target)}, another host: let the application"
            " register the URL at which it is served"
        )
    if before.scheme == "https" and after.scheme != "https":
        raise Refused(f"{_origin(url)} redirects from https to http")
    return target


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:200]
