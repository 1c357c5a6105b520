"""`?wait=30`: hold an answer until what a request has set off is over, for a while."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.gateway.api.schemas import FullInvocation, Outcome, done
from runyard.gateway.http.endpoint import Call, Query, json_response
from runyard.store import database
from runyard.store.queries import fetch_all

LONGEST_WAIT = 120


class WaitQuery(Query):
    """`wait`: seconds to wait for the outcome; without it the answer comes at once."""

    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT)] = 0


async def outcome(call: Call, ids: Sequence[str], seconds: float) -> Response:
    """The outcome of these events, which are the caller's own: 200 when nothing of them is open, 202 when they go on.

    Raises `HttpError` where the caller's key was revoked meanwhile.
    """
    if seconds and ids:
        await call.services.watcher.wait_until_finished(ids, seconds, call.caller.id)
        await call.services.authenticator.check_still_valid(call.caller)
    invocations = await run_in_threadpool(invocations_of, ids) if seconds else []
    over = bool(seconds) and done(invocations)
    return json_response(
        Outcome(ids=list(ids), done=over, invocations=invocations), 200 if over else 202
    )


def invocations_of(events: Sequence[str]) -> list[FullInvocation]:
    """All invocations of events, in full."""
    with database.connection() as connection:
        return [
            FullInvocation.model_validate(row)
            for row in fetch_all(
                connection, "invocations_in_full", events=list(events), invocation=None
            )
        ]
