"""Finds applications in development, and asks those that are known whether they have changed.

Until the first application is there, the usual ports of this machine are tried. Afterwards those
that are known are asked again and again: that is how a function that somebody has just written
appears. One process does this at a time. Applications that are named in a setting are asked
everywhere, until they have registered.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import dict_row

from runyard.apps import catalog
from runyard.apps.calls import Caller
from runyard.apps.registration import shown_url
from runyard.apps.sync import SyncFailed, caller, introspect, sync
from runyard.engine.backoff import Backoff
from runyard.engine.tasks import end_task
from runyard.settings import settings
from runyard.store.database import direct_url
from runyard.store.queries import Connection, fetch_one

# The ports on which frameworks serve in development, and the paths of their SDKs.
PORTS = (
    80, 443, *range(3000, 3011), 4321, 5000, 5173, 8000, 8080, 8081, 8787, 8888, *range(8910, 8916)
)  # fmt: skip
PATHS = (
    "/api/inngest",
    "/x/inngest",
    "/.netlify/functions/inngest",
    "/.redwood/functions/inngest",
)
_INTERVAL = 5.0
_LONGEST_WAIT = 30.0
_CONNECT_SECONDS = 0.3
_PROBE_SECONDS = 2.0
# A server that serves no functions is asked again after so many rounds.
_PASSED_OVER = 6
_log = logging.getLogger("runyard.apps")
# Why applications have not registered that this process has asked to, by their URLs.
_problems: dict[str, str] = {}


def problems() -> Mapping[str, str]:
    """Return why applications have not registered when they were asked last, by their URLs."""
    return dict(_problems)


class Discovery:
    """Looks for applications; an async context manager that does so in the background.

    Parameters
    ----------
    development
        Whether to look on the ports of this machine, and to ask known applications for changes.
    """

    def __init__(self, *, development: bool) -> None:
        self._looks = development and settings().discover_apps
        self._wanted = list(settings().apps)
        self._passed_over: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Discovery":
        if self._looks or self._wanted:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end_task(self._task)

    async def _run(self) -> None:
        backoff = Backoff(_log, "not looking for applications", _LONGEST_WAIT)
        while self._looks or self._wanted:
            try:
                async with _the_only_one() as connection, caller(_PROBE_SECONDS) as client:
                    while self._looks or self._wanted:
                        await asyncio.to_thread(connection.execute, "SELECT 1")
                        backoff.succeeded()
                        await self._round(client)
                        await asyncio.sleep(_INTERVAL)
            except Exception as error:
                await asyncio.sleep(backoff.failed(error))

    async def _round(self, client: Caller) -> None:
        known = [row["url"] for row in await asyncio.to_thread(catalog.apps)]
        wanted, self._wanted = self._wanted, []
        for url in wanted:
            if not await self._ask(url, client, in_band=True):
                self._wanted.append(url)
        asked = set(wanted)
        if self._looks:
            for url in known:
                if url not in wanted:
                    await self._ask(url, client, in_band=True)
            found = [] if known else await self._found(client)
            for url in found:
                await self._ask(url, client)
            asked.update(known, found)
        for url in set(_problems) - asked:
            del _problems[url]

    async def _ask(self, url: str, client: Caller, *, in_band: bool = False) -> bool:
        """Ask an application to register; return whether it has. What is wrong is said once."""
        try:
            await sync(url, client, in_band=in_band)
        except SyncFailed as error:
            if _problems.get(url) != str(error):
                _log.warning("the application at %s: %s", shown_url(url), error)
            _problems[url] = str(error)
            return False
        _problems.pop(url, None)
        return True

    async def _found(self, client: Caller) -> Sequence[str]:
        """Return the URLs at which an application is served on this machine."""
        open_ports = await asyncio.gather(*map(_is_open, _ports()))
        found: list[str] = []
        for port, is_open in zip(_ports(), open_ports, strict=True):
            rounds = self._passed_over.pop(port, 0)
            if not is_open:
                continue
            if rounds > 1:
                self._passed_over[port] = rounds - 1
                continue
            url = await _app_on(port, client)
            if url is None:
                self._passed_over[port] = _PASSED_OVER
            else:
                found.append(url)
        return found


def _ports() -> Sequence[int]:
    """Return the ports to try, without our own."""
    own = os.environ.get("PORT", "")
    ports = dict.fromkeys([*PORTS, *([int(own)] if own.isdecimal() else [])])
    return [port for port in ports if port != settings().port and 0 < port < 65_536]


async def _is_open(port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _app_on(port: int, client: Caller) -> str | None:
    scheme = "https" if port == 443 else "http"
    for path in PATHS:
        url = f"{scheme}://localhost:{port}{path}"
        if (await introspect(url, client)).is_sdk:
            return url
    return None


@asynccontextmanager
async def _the_only_one() -> AsyncIterator[Connection]:
    """Wait until no other process looks for applications; yield the connection with the lock."""
    connection: Connection = await asyncio.to_thread(_connect)
    try:
        while not await asyncio.to_thread(_has_lock, connection):
            await asyncio.sleep(_INTERVAL)
        yield connection
    finally:
        connection.close()


def _connect() -> Connection:
    return psycopg.connect(
        direct_url(),
        autocommit=True,
        row_factory=dict_row,
        application_name="runyard app discovery",
    )


def _has_lock(connection: Connection) -> bool:
    row = fetch_one(connection, "lock_discovery")
    return row is not None and bool(row["locked"])
