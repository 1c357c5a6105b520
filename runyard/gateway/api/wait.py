"""`?wait=30`: hold the response until what a request triggered is finished, or for so long."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.api.schemas import FullInvocation, Outcome, done
from runyard.gateway.http.endpoint import Call, Query, json_response
from runyard.store import database
from runyard.store.queries import fetch_all

MAX_WAIT = 120


class WaitQuery(Query):
    """`wait`: seconds to wait for the outcome; without it the response comes at once."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT)] = 0


async def outcome(call: Call, ids: Sequence[str], seconds: float) -> Response:
    """The outcome of the caller's events: 200 if all invocations are final, otherwise 202.

    Raises `HttpError` if the caller's key was revoked in the meantime.
    """
    if seconds and ids:
        await call.services.watcher.wait_until_finished(ids, seconds, call.caller.id)
        await call.services.authenticator.check_still_valid(call.caller)
    invocations = await run_in_threadpool(invocations_of, ids) if seconds else []
    finished = bool(seconds) and done(invocations)
    body = Outcome(ids=list(ids), done=finished, invocations=invocations)
    return json_response(body, 200 if finished else 202)


def invocations_of(events: Sequence[str]) -> list[FullInvocation]:
    """All invocations of events, with steps, waits and progress."""
    with database.connection() as connection:
        return [
            FullInvocation.model_validate(row)
            for row in fetch_all(
                connection, "invocations_in_full", events=list(events), invocation=None
            )
        ]
