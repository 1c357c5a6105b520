"""`POST /v1/signals`: what SDKs call to send a signal to the step that waits for it."""

from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from runyard.apps.run_ids import run_id
from runyard.engine.signals import MAX_SIGNAL_BYTES, send_signal
from runyard.gateway.api.inngest_apps import BEARER, admits
from runyard.gateway.http.endpoint import Body, Call, Endpoint, not_found


class Signal(Body):
    """A signal, and what the step that waits for it gets."""

    signal: Annotated[str, Field(min_length=1, max_length=MAX_SIGNAL_BYTES)]
    data: Any = None


class Resumed(BaseModel):
    """The run that has waited for a signal."""

    run_id: str


class SignalSent(BaseModel):
    """A signal has been sent."""

    data: Resumed


async def signals(call: Call) -> SignalSent:
    """Send a signal to the step that waits for it."""
    signal: Signal = call.body
    resumed = await run_in_threadpool(send_signal, signal.signal, signal.data)
    if resumed is None:
        raise not_found("step that waits for the signal", signal.signal[:200])
    return SignalSent(data=Resumed(run_id=run_id(*resumed)))


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/signals",
        signals,
        "Applications",
        "Send a signal to the step that waits for it",
        None,
        body=Signal,
        response=SignalSent,
        headers=BEARER,
        errors=(401, 404),
        admits=admits,
    ),
]
