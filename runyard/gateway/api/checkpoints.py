"""The endpoint for checkpoints: results that an application sends while it is being called.

It is on the way of every step, so it writes in a group with others, and does nothing else.
"""

from pydantic import BaseModel

from runyard.apps.answers import TooLarge
from runyard.apps.checkpoints import MAX_BYTES, Checkpoint, parse_checkpoint
from runyard.gateway.api.inngest_apps import admits
from runyard.gateway.http.body import LARGE_BYTES, check_values, client_errors, parse_in_thread
from runyard.gateway.http.endpoint import Call, Endpoint
from runyard.gateway.http.errors import HttpError

_STALE = (
    "another call has begun, or the run has ended or was cancelled: nothing of this call is kept"
    " any more"
)


class Kept(BaseModel):
    """The results are kept."""

    ok: bool = True


async def checkpoint(call: Call) -> Kept:
    """Keep results of steps, all of them or none; the response comes after the commit."""
    large = len(call.raw) > LARGE_BYTES
    sent = await parse_in_thread(_parsed, call) if large else _parsed(call)
    outcome = "stale" if sent is None else await call.services.checkpoints.keep(sent)
    match outcome:
        case "kept":
            return Kept()
        case "full":
            raise HttpError(
                413,
                "too_large",
                "the run has 1,000 steps already, or results of 32 MiB, and more are not kept:"
                " send an event for the rest",
            )
        case "locked":
            raise HttpError(
                503,
                "locked",
                "the run is being changed at this moment; nothing was kept. Send it again",
                headers={"Retry-After": "1"},
            )
        case _:
            raise HttpError(409, "stale", _STALE)


def _parsed(call: Call) -> Checkpoint | None:
    check_values(call.raw)
    try:
        with client_errors():
            return parse_checkpoint(call.path("run_id"), call.raw)
    except TooLarge as error:
        raise HttpError(413, "too_large", str(error)) from None


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/checkpoint/{run_id}/async",
        checkpoint,
        "Applications",
        "Keep results of steps while the call of a function goes on",
        None,
        response=Kept,
        body_schema={
            "type": "object",
            "required": ["qi_id", "steps"],
            "properties": {
                "run_id": {"type": "string"},
                "qi_id": {"type": "string", "description": "`ctx.qi_id` of the call."},
                "generation_id": {
                    "type": "integer",
                    "description": "`ctx.generation_id` of the call.",
                },
                "steps": {
                    "type": "array",
                    "maxItems": 1000,
                    "items": {
                        "type": "object",
                        "required": ["op", "id"],
                        "properties": {
                            "op": {"enum": ["StepRun", "Step", "StepPlanned"]},
                            "id": {"type": "string"},
                            "data": {},
                        },
                    },
                },
            },
        },
        headers={"authorization": "`Bearer` and the hash of the signing key, as the SDKs send it."},
        errors=(401, 409, 413, 503),
        admits=admits,
        max_bytes=MAX_BYTES,
    )
]
