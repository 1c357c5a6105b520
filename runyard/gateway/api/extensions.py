"""What a project adds to the HTTP API: edge functions that send an event, webhooks that take another sender's JSON.

A project's module of doors (RUNYARD_HTTP_EXTENSIONS) has a list `ENDPOINTS`::

    ENDPOINTS = [
        edge_function("send-email", EmailSendRequested, "email/send.requested", "Send a mail."),
        Webhook("github", BodyHmac("GITHUB_WEBHOOK_SECRET"), github_events, "GitHub's deliveries, as github/<event>.").endpoint(),
    ]
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from psycopg import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from runyard.errors import InvalidOption
from runyard.events import Event, EventData, rows_as_json, rows_of
from runyard.gateway.api.schemas import Outcome, Received
from runyard.gateway.api.wait import WaitQuery, outcome
from runyard.gateway.http import counters
from runyard.gateway.http.body import (
    LARGE_BYTES,
    MAX_VALUES,
    client_errors,
    parse_in_thread,
    parse_json,
)
from runyard.gateway.http.body_memory import LARGEST_BODY, sender_identified
from runyard.gateway.http.endpoint import Call, Endpoint
from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.event_writer import EncodedEvents
from runyard.gateway.http.signatures import Signature, StandardWebhooks
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.storable import make_storable

_LOCK_SECONDS = 5
# Of parts that were not understood, in the log.
_MAX_SAID = 10
# Where JSON may have NUL or half a surrogate pair: as an escape, or (which Python reads) as bytes.
_UNFIT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|\xed[\xa0-\xbf]")
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 20
_log = logging.getLogger("runyard.gateway")


def edge_function(name: str, body: type[EventData], event: str, summary: str) -> Endpoint:
    """`POST /functions/v1/{name}`: the body is the data of an event, which is sent; 202 with its id, or with `?wait=` its outcome."""

    async def send(call: Call) -> Response:
        return await send_for(
            call, Event(event, call.body.model_dump(mode="json", exclude_unset=True))
        )

    return Endpoint(
        "POST",
        f"/functions/v1/{name}",
        send,
        "Edge functions",
        summary,
        "send",
        query=WaitQuery,
        body=body,
        response=Outcome,
        other_responses={202: ("it was taken, and goes on", Outcome)},
    )


async def send_for(call: Call, event: Event) -> Response:
    """Send an event for a caller who may, and answer as an edge function does."""
    call.check_may_send(event.name)
    with client_errors():
        rows = EncodedEvents.of(rows_of([event]), call.caller.sender)
    ids = await call.services.writer.send(rows)
    return await outcome(call, ids, call.query.wait)


@dataclass(frozen=True)
class WebhookRequest:
    """What another sender posted.

    Attributes
    ----------
    json
        The body, parsed; what PostgreSQL cannot keep in a text is U+FFFD.
    headers
        The request's headers, in lower case.
    connection
        A connection whose transaction commits with the events, or not at all: for tables of the project's own.
    """

    json: Any
    headers: Mapping[str, str]
    connection: Connection[dict[str, object]]


@dataclass(frozen=True)
class WebhookResult:
    """What a webhook has made of a body, where some parts of it may be beyond it.

    Attributes
    ----------
    events
        The events.
    not_understood
        A text for the log for each part that was not understood; none of them holds what was sent.
    """

    events: Sequence[Event]
    not_understood: Sequence[str] = ()


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
        Makes events of what came, none where it is of no interest; `WebhookResult` where parts of it may be beyond it. Give them the sender's own id as
        `id`, so that a repeated delivery starts nothing (with `StandardWebhooks` those without one get the delivery's). What it raises for a
        body that it does not understand (KeyError, ValueError and the like) is a 400.
    summary
        What it is, in a sentence.
    max_bytes
        How large a body may be, 1 MiB by default and 25 MiB at most: anybody may post here, and what is posted is kept until its signature is checked.
    max_values
        How many values, lists and objects its JSON may have.
    form_field
        The field that holds the JSON, for senders that may post a form instead (GitHub's `payload`).
    """

    name: str
    signature: Signature
    take: Callable[[WebhookRequest], Sequence[Event] | WebhookResult]
    summary: str
    max_bytes: int = 1024 * 1024
    max_values: int = MAX_VALUES
    form_field: str | None = None

    def __post_init__(self) -> None:
        if self.max_bytes > LARGEST_BODY:
            raise InvalidOption(
                f"webhook {self.name}: max_bytes is {self.max_bytes}; give {LARGEST_BODY} (25 MiB) at most"
            )

    def endpoint(self) -> Endpoint:
        """The endpoint."""
        takes = {"description": "What the sender posts."}
        return Endpoint(
            "POST",
            f"/webhooks/{self.name}",
            self._answer,
            "Webhooks",
            self.summary,
            None,
            response=Received,
            body_schema=takes,
            errors=(401, 503),
            max_bytes=self.max_bytes,
        )

    async def _answer(self, call: Call) -> Received:
        headers = call.request.headers
        if os.environ.get(self.signature.variable) or not call.services.authenticator.development:
            self.signature.check(headers, call.raw)
            sender_identified(call.request.state, f"webhook {self.name}")
        else:
            _log.warning(
                "webhook %s was taken without a check: %s is not set",
                self.name,
                self.signature.variable,
            )
        is_form = headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM
        read = self._read_form if is_form and self.form_field else self._read
        body = (
            await parse_in_thread(read, call.raw) if len(call.raw) > LARGE_BYTES else read(call.raw)
        )
        ids, not_understood = await run_in_threadpool(self._take, body, headers)
        if not_understood:
            counters.not_understood.labels(self.name).inc(len(not_understood))
            _log.warning(
                "webhook %s: %d parts were not understood: %s",
                self.name,
                len(not_understood),
                "; ".join(not_understood[:_MAX_SAID]),
            )
        return Received(ids=ids, not_understood=len(not_understood))

    def _read(self, raw: bytes) -> Any:
        """The JSON of a body, with what PostgreSQL cannot keep of its texts replaced: what nobody may read must not lose the rest."""
        body = parse_json(raw, self.max_values)
        return make_storable(body) if _UNFIT.search(raw) else body

    def _read_form(self, raw: bytes) -> Any:
        """The JSON in the field of a form; a sender of forms can be told to send JSON, which `curl -d` declares as a form."""
        if raw.lstrip().startswith((b"{", b"[")):
            return self._read(raw)
        try:
            fields = parse_qs(raw.decode("ascii"), max_num_fields=_MAX_FIELDS)
            [value] = fields[self.form_field or ""]
        except (ValueError, LookupError):
            raise HttpError(
                400,
                "invalid_body",
                f"the form has no field {self.form_field}: have {self.name} send application/json",
            ) from None
        return self._read(value.encode())

    def _take(self, body: Any, headers: Mapping[str, str]) -> tuple[list[str], Sequence[str]]:
        # Another delivery of the same may be under way, or an application's transaction with it: not for long.
        with database.transaction(_LOCK_SECONDS) as connection:
            try:
                found = self.take(WebhookRequest(body, headers, connection))
                taken = found if isinstance(found, WebhookResult) else WebhookResult(found)
                rows = rows_as_json(self._identified(taken.events, headers))
            except (
                LookupError,
                TypeError,
                AttributeError,
                ValueError,
                ArithmeticError,
                RecursionError,
            ) as error:
                raise HttpError(
                    400,
                    "invalid_body",
                    f"the body is not what {self.name} sends: {type(error).__name__}",
                ) from error
            ids = (
                [
                    row["id"]
                    for row in fetch_all(
                        connection, "send", events=rows, source=f"webhook {self.name}"
                    )
                ]
                if taken.events
                else []
            )
        return ids, taken.not_understood

    def _identified(self, events: Sequence[Event], headers: Mapping[str, str]) -> Sequence[Event]:
        """The events; where the delivery has an id that is signed, those without one of their own get it."""
        message = (
            headers.get("webhook-id") if isinstance(self.signature, StandardWebhooks) else None
        )
        if message is None:
            return events
        return [
            event
            if event.id is not None
            else replace(event, id=f"{self.name}-{message}/{position}")
            for position, event in enumerate(events)
        ]
