"""`/healthz`: this process is alive. `/readyz`: it can accept events, or all that they need is up.

A load balancer that asks `/readyz` must not take a web process away because no worker is alive: it
still accepts events, and they are executed later.
"""

import asyncio
import time
from collections.abc import Callable

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.http.endpoint import Call, Endpoint, Query, json_response
from runyard.processes.checks import Check, checks, serving_checks

_FRESH_SECONDS = 2.0
# With what else a scrape waits for, this is less than the 10 s after which Prometheus gives up.
_LONGEST_SECONDS = 5.0
_NO_END = (
    f"the checks have not ended within {_LONGEST_SECONDS:g} seconds: a server accepts connections"
    " and does not answer, or another session keeps a table locked"
)


class ReadyQuery(Query):
    """Which checks to make."""

    all: bool = Field(
        default=False, description="Also check what executes events: workers, daemon, broker."
    )


class Alive(BaseModel):
    """This process is alive."""

    status: str = "ok"


class CheckView(BaseModel):
    """A check: whether it passed; in development also the finding, or what to do."""

    ok: bool
    says: str | None = None


class Ready(BaseModel):
    """Whether the process can accept events, or everything that they need is up."""

    status: str
    checks: dict[str, CheckView]


async def alive(call: Call) -> Alive:
    """200 while the process responds."""
    del call
    return Alive()


class _Checks:
    """Caches the checks for a few seconds: anybody may call this, and they are expensive.

    No caller waits long for checks that do not end: a statement that has been sent has no limit of
    its own when the server hangs, or another session locks what it reads.
    """

    def __init__(self, run: Callable[[], list[Check]]) -> None:
        self._run = run
        self._round: asyncio.Task[None] | None = None
        self._latest: list[Check] = []
        self._checked_at = float("-inf")

    async def latest(self) -> list[Check]:
        """All checks; none of them has passed when they have not ended in time."""
        if time.monotonic() - self._checked_at <= _FRESH_SECONDS:
            return self._latest
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._check())
        ended, _ = await asyncio.wait({self._round}, timeout=_LONGEST_SECONDS)
        if not ended:
            return self._without_end()
        self._round.result()
        return self._latest

    async def _check(self) -> None:
        self._latest = await run_in_threadpool(self._run)
        self._checked_at = time.monotonic()

    def _without_end(self) -> list[Check]:
        names = [check.name for check in self._latest] or ["database"]
        return [Check(name, False, _NO_END) for name in names]


_checks = _Checks(checks)
_serving = _Checks(serving_checks)


async def latest_checks() -> list[Check]:
    """The result of every check, no older than a few seconds."""
    return await _checks.latest()


async def ready(call: Call) -> Response:
    """200 when events can be accepted, and with `all` also executed; else 503."""
    query: ReadyQuery = call.query
    latest = await (_checks if query.all else _serving).latest()
    ok = all(check.ok for check in latest)
    in_detail = call.services.authenticator.development
    views = {
        check.name: CheckView(ok=check.ok, says=check.says if in_detail else None)
        for check in latest
    }
    body = Ready(status="ok" if ok else "not ready", checks=views)
    return json_response(body, 200 if ok else 503)


ENDPOINTS = [
    Endpoint(
        "GET", "/healthz", alive, "Health", "Whether this process is alive.", None, response=Alive
    ),
    Endpoint(
        "GET",
        "/readyz",
        ready,
        "Health",
        "Whether this process can accept events; with `all`, whether they are executed too.",
        None,
        query=ReadyQuery,
        response=Ready,
        other_responses={503: ("Something is not up.", Ready)},
    ),
]
