"""What a project adds to the HTTP door: edge functions that send an event, webhooks that take another sender's JSON.

A project's module of doors (RUNYARD_DOORS) has a list `ENDPOINTS`::

    ENDPOINTS = [
        edge_function("send-email", EmailSendRequested, "email/send.requested", "Send a mail."),
        Webhook("github", BodyHmac("GITHUB_WEBHOOK_SECRET"), github_events, "GitHub's deliveries, as github/<event>.").endpoint(),
    ]
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.events import Event, EventData, rows_as_json, rows_of
from runyard.gateway.bodies import is_known
from runyard.gateway.endpoint import Call, Endpoint
from runyard.gateway.problems import Problem
from runyard.gateway.reading import parse_json, reading
from runyard.gateway.signatures import Signature, StandardWebhooks
from runyard.gateway.views import Accepted, Outcome
from runyard.gateway.waiting import Wait, outcome
from runyard.gateway.writing import Rows
from runyard.store import database
from runyard.store.queries import run

_LOCK_SECONDS = 5
_log = logging.getLogger("runyard.gateway")


def edge_function(name: str, body: type[EventData], event: str, summary: str) -> Endpoint:
    """`POST /functions/v1/{name}`: the body is the data of an event, which is sent; 202 with its id, or with `?wait=` its outcome."""

    async def send(call: Call) -> Response:
        return await send_for(call, Event(event, call.body.model_dump(mode="json", exclude_unset=True)))

    return Endpoint(
        "POST",
        f"/functions/v1/{name}",
        send,
        "Edge functions",
        summary,
        "send",
        query=Wait,
        body=body,
        answer=Outcome,
        also={202: ("it was taken, and goes on", Outcome)},
    )


async def send_for(call: Call, event: Event) -> Response:
    """Send an event for a caller who may, and answer as an edge function does."""
    call.check_may_send(event.name)
    with reading():
        rows = Rows.of(rows_of([event]), call.caller.sender)
    ids = await call.services.writer.send(rows)
    return await outcome(call, ids, call.query.wait)


@dataclass(frozen=True)
class Incoming:
    """What another sender posted.

    Attributes
    ----------
    json
        The body, parsed.
    headers
        The request's headers, in lower case.
    connection
        A connection whose transaction commits with the events, or not at all: for tables of the project's own.
    """

    json: Any
    headers: Mapping[str, str]
    connection: Connection[dict[str, object]]


@dataclass(frozen=True)
class Webhook:
    """`POST /webhooks/{name}`: another sender's JSON becomes events.

    Parameters
    ----------
    name
        The last part of the path.
    signature
        The sender's scheme. While its secret is not set, unsigned requests are taken in development, and refused elsewhere.
    take
        Makes events of what came, none where it is of no interest. Give them the sender's own id as `id`, so that a repeated delivery starts
        nothing (with `StandardWebhooks` those without one get the delivery's). What it raises for a body that it does not understand
        (KeyError, ValueError and the like) is a 400.
    summary
        What it is, in a sentence.
    most_bytes
        How large a body may be, 1 MiB by default: anybody may post here, and what is posted is kept until its signature is checked.
    """

    name: str
    signature: Signature
    take: Callable[[Incoming], Sequence[Event]]
    summary: str
    most_bytes: int = 1024 * 1024

    def endpoint(self) -> Endpoint:
        """The endpoint."""
        takes = {"description": "What the sender posts."}
        return Endpoint(
            "POST", f"/webhooks/{self.name}", self._answer, "Webhooks", self.summary, None, answer=Accepted, takes=takes, errors=(401, 503), most_bytes=self.most_bytes
        )  # fmt: skip

    async def _answer(self, call: Call) -> Accepted:
        headers = call.request.headers
        if os.environ.get(self.signature.variable) or not call.services.access.development:
            self.signature.check(headers, call.raw)
            is_known(call.request.state, f"webhook {self.name}")
        else:
            _log.warning("webhook %s was taken without a check: %s is not set", self.name, self.signature.variable)
        return Accepted(ids=await run_in_threadpool(self._take, call.raw, headers))

    def _take(self, raw: bytes, headers: Mapping[str, str]) -> list[str]:
        body = parse_json(raw)
        # Another delivery of the same may be under way, or an application's transaction with it: not for long.
        with database.transaction(_LOCK_SECONDS) as connection:
            try:
                events = self._identified(self.take(Incoming(body, headers, connection)), headers)
                rows = rows_as_json(events)
            except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
                raise Problem(400, "invalid_body", f"the body is not what {self.name} sends: {type(error).__name__}") from error
            return [row["id"] for row in run(connection, "send", events=rows, source=f"webhook {self.name}")] if events else []

    def _identified(self, events: Sequence[Event], headers: Mapping[str, str]) -> Sequence[Event]:
        """The events; where the delivery has an id that is signed, those without one of their own get it."""
        message = headers.get("webhook-id") if isinstance(self.signature, StandardWebhooks) else None
        if message is None:
            return events
        return [event if event.id is not None else replace(event, id=f"{self.name}-{message}/{position}") for position, event in enumerate(events)]
