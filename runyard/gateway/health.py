"""`/healthz`: this process lives. `/readyz`: the database, its tables, the daemon and a worker are there."""

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.endpoint import Call, Endpoint, answer
from runyard.readiness import checks


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


async def ready(call: Call) -> Response:
    """200 when everything that an event needs is up, else 503."""
    found = await run_in_threadpool(checks)
    ok = all(check.ok for check in found)
    says = call.services.access.development
    body = Ready(status="ok" if ok else "not ready", checks={check.name: CheckView(ok=check.ok, says=check.says if says else None) for check in found})
    return answer(body, 200 if ok else 503)


ENDPOINTS = [
    Endpoint("GET", "/healthz", alive, "Health", "Whether this process lives.", None, answer=Alive),
    Endpoint(
        "GET",
        "/readyz",
        ready,
        "Health",
        "Whether everything that an event needs is up: database, migrations, workers, daemon.",
        None,
        answer=Ready,
        also={503: ("it is not", Ready)},
    ),
]
