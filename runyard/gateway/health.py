"""`/healthz`: this process lives. `/readyz`: the database, its tables, the daemon and a worker are there."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from runyard.readiness import checks
from runyard.settings import settings


async def alive(_: Request) -> JSONResponse:
    """200 while the process can answer."""
    return JSONResponse({"status": "ok"})


async def ready(_: Request) -> JSONResponse:
    """200 when everything that an event needs is up, else 503; every check with its result, and on loopback what was found."""
    found = await run_in_threadpool(checks)
    ok = all(check.ok for check in found)
    body = {
        "status": "ok" if ok else "not ready",
        "checks": {check.name: {"ok": check.ok, **({"says": check.says} if settings().loopback_only else {})} for check in found},
    }
    return JSONResponse(body, status_code=200 if ok else 503)
