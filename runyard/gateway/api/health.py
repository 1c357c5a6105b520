"""`/healthz`: this process lives. `/readyz`: the database, its tables, the daemon and a worker are there."""

import asyncio
import time

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.http.endpoint import Call, Endpoint, json_response
from runyard.processes.checks import Check, checks

_FRESH_SECONDS = 2.0


class Alive(BaseModel):
    """This process can answer."""

    status: str = "ok"


class CheckView(BaseModel):
    """A check: whether it is well; in development also what was found or is to be done."""

    ok: bool
    says: str | None = None


class Ready(BaseModel):
    """Whether everything is up that an event needs."""

    status: str
    checks: dict[str, CheckView]


async def alive(call: Call) -> Alive:
    """200 while the process can answer."""
    del call
    return Alive()


class _Checks:
    """What was found last, for a few seconds: anybody may ask, and looking is dear."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._found: list[Check] = []
        self._looked_at = float("-inf")

    async def found(self) -> list[Check]:
        """All checks."""
        async with self._lock:
            if time.monotonic() - self._looked_at > _FRESH_SECONDS:
                self._found = await run_in_threadpool(checks)
                self._looked_at = time.monotonic()
            return self._found


_checks = _Checks()


async def ready(call: Call) -> Response:
    """200 when everything that an event needs is up, else 503."""
    found = await _checks.found()
    ok = all(check.ok for check in found)
    says = call.services.authenticator.development
    body = Ready(
        status="ok" if ok else "not ready",
        checks={
            check.name: CheckView(ok=check.ok, says=check.says if says else None) for check in found
        },
    )
    return json_response(body, 200 if ok else 503)


ENDPOINTS = [
    Endpoint(
        "GET", "/healthz", alive, "Health", "Whether this process lives.", None, response=Alive
    ),
    Endpoint(
        "GET",
        "/readyz",
        ready,
        "Health",
        "Whether everything that an event needs is up: database, migrations, workers, daemon.",
        None,
        response=Ready,
        other_responses={503: ("it is not", Ready)},
    ),
]
