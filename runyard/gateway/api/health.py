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
    """Caches the checks for a few seconds: anybody may call this, and they are expensive."""

    def __init__(self, run: Callable[[], list[Check]]) -> None:
        self._run = run
        self._lock = asyncio.Lock()
        self._latest: list[Check] = []
        self._checked_at = float("-inf")

    async def latest(self) -> list[Check]:
        """All checks."""
        async with self._lock:
            if time.monotonic() - self._checked_at > _FRESH_SECONDS:
                self._latest = await run_in_threadpool(self._run)
                self._checked_at = time.monotonic()
            return self._latest


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
