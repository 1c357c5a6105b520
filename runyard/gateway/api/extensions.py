"""How a project extends the HTTP API: edge functions that send an event, and webhooks.

The module that RUNYARD_HTTP_EXTENSIONS names has a list `ENDPOINTS`::

    ENDPOINTS = [
        edge_function("send-email", EmailSendRequested, "email/send.requested", "Send an email."),
        Webhook(
            "github", BodyHmac("GITHUB_WEBHOOK_SECRET"), github_events, "Deliveries of GitHub."
        ).endpoint(),
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
from runyard.gateway.http.guard import FORM, media_type
from runyard.gateway.http.signatures import Signature, StandardWebhooks
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.storable import make_storable

_LOCK_SECONDS = 5
# How many of the parts that could not be parsed a log line lists.
_MAX_LOGGED = 10
# JSON may contain NUL or half a surrogate pair as an escape, or as bytes (which Python accepts).
_NOT_STORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|\xed[\xa0-\xbf]")
_MAX_FIELDS = 20
_log = logging.getLogger("runyard.gateway")


def edge_function(name: str, body: type[EventData], event: str, summary: str) -> Endpoint:
    """`POST /functions/v1/{name}`, whose body is the data of the event that it sends.

    The response is 202 with the event's id, or with `?wait=` its outcome.
    """

    async def send(call: Call) -> Response:
        data = call.body.model_dump(mode="json", exclude_unset=True)
        return await send_for(call, Event(event, data))

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
        other_responses={202: ("Accepted; it is not finished yet.", Outcome)},
    )


async def send_for(call: Call, event: Event) -> Response:
    """Send an event if the caller may, and respond as an edge function does."""
    call.check_may_send(event.name)
    with client_errors():
        rows = EncodedEvents.of(rows_of([event]), call.caller.sender)
    ids = await call.services.writer.send(rows)
    return await outcome(call, ids, call.query.wait)


@dataclass(frozen=True)
class WebhookRequest:
    """What a webhook's sender has posted.

    Attributes
    ----------
    json
        The parsed body; characters that PostgreSQL cannot store are replaced by U+FFFD.
    headers
        The request headers, in lower case.
    connection
        A database connection whose transaction also inserts the events: for the project's tables.
    """

    json: Any
    headers: Mapping[str, str]
    connection: Connection[dict[str, object]]


@dataclass(frozen=True)
class WebhookResult:
    """The events made of a body of which some parts could not be parsed.

    Attributes
    ----------
    events
        The events.
    not_understood
        A text for the log for each part that could not be parsed, without any of the payload.
    """

    events: Sequence[Event]
    not_understood: Sequence[str] = ()


@dataclass(frozen=True)
class Webhook:
    """`POST /webhooks/{name}`, which turns the JSON of another service into events.

    Parameters
    ----------
    name
        The last part of the path.
    signature
        The sender's signature scheme. While its secret is not set, unsigned requests are accepted
        in development and rejected elsewhere.
    to_events
        Makes events of a request, none if it is of no interest, or a `WebhookResult` if some parts
        could not be parsed. Give the events the sender's own ids as `id`, so that a repeated
        delivery starts nothing (with `StandardWebhooks` events without one get the delivery's). An
        exception over an unexpected body (KeyError, ValueError and the like) becomes a 400.
    summary
        What it does, in a sentence.
    max_bytes
        How large a body may be, 1 MiB by default and at most 25 MiB: anybody may post here, and the
        body is kept in memory until its signature is verified.
    max_values
        How many values, lists and objects the JSON may have.
    form_field
        The field with the JSON, for senders that may post a form instead (GitHub's `payload`).
    """

    name: str
    signature: Signature
    to_events: Callable[[WebhookRequest], Sequence[Event] | WebhookResult]
    summary: str
    max_bytes: int = 1024 * 1024
    max_values: int = MAX_VALUES
    form_field: str | None = None

    def __post_init__(self) -> None:
        if self.max_bytes > LARGEST_BODY:
            raise InvalidOption(
                f"webhook {self.name}: max_bytes is {self.max_bytes};"
                f" it may be at most {LARGEST_BODY} (25 MiB)"
            )

    def endpoint(self) -> Endpoint:
        """The endpoint."""
        return Endpoint(
            "POST",
            f"/webhooks/{self.name}",
            self._handle,
            "Webhooks",
            self.summary,
            None,
            response=Received,
            body_schema={"description": "What the sender posts."},
            errors=(401, 503),
            max_bytes=self.max_bytes,
        )

    async def _handle(self, call: Call) -> Received:
        self._verify(call)
        headers = call.request.headers
        is_form = self.form_field is not None and media_type(headers) == FORM
        parse = self._parse_form if is_form else self._parse
        large = len(call.raw) > LARGE_BYTES
        body = await parse_in_thread(parse, call.raw) if large else parse(call.raw)
        ids, not_understood = await run_in_threadpool(self._store, body, headers)
        if not_understood:
            counters.not_understood.labels(self.name).inc(len(not_understood))
            _log.warning(
                "webhook %s: %d parts could not be parsed: %s",
                self.name,
                len(not_understood),
                "; ".join(not_understood[:_MAX_LOGGED]),
            )
        return Received(ids=ids, not_understood=len(not_understood))

    def _verify(self, call: Call) -> None:
        """Raise `HttpError` unless the signature is valid, or not required."""
        if os.environ.get(self.signature.variable) or not call.services.authenticator.development:
            self.signature.check(call.request.headers, call.raw)
            sender_identified(call.request.state, f"webhook {self.name}")
        else:
            _log.warning(
                "webhook %s accepted an unverified request: %s is not set",
                self.name,
                self.signature.variable,
            )

    def _parse(self, raw: bytes) -> Any:
        """Parse JSON; text that PostgreSQL cannot store is replaced, to keep the rest."""
        body = parse_json(raw, self.max_values)
        return make_storable(body) if _NOT_STORABLE.search(raw) else body

    def _parse_form(self, raw: bytes) -> Any:
        """Parse the JSON in a field of a form, or JSON that is declared as one, as by `curl -d`."""
        if raw.lstrip().startswith((b"{", b"[")):
            return self._parse(raw)
        try:
            fields = parse_qs(raw.decode("ascii"), max_num_fields=_MAX_FIELDS)
            [value] = fields[self.form_field or ""]
        except (ValueError, LookupError):
            message = (
                f"the form has no field {self.form_field}:"
                f" configure {self.name} to send application/json"
            )
            raise HttpError(400, "invalid_body", message) from None
        return self._parse(value.encode())

    def _store(self, body: Any, headers: Mapping[str, str]) -> tuple[list[str], Sequence[str]]:
        """Insert the events of a body; return their ids, and what could not be parsed.

        The lock timeout is short, for another delivery of the same, or a transaction of an
        application with the same id, may be in progress.
        """
        with database.transaction(_LOCK_SECONDS) as connection:
            try:
                result = self.to_events(WebhookRequest(body, headers, connection))
                if not isinstance(result, WebhookResult):
                    result = WebhookResult(result)
                events = rows_as_json(self._with_ids(result.events, headers))
            except (
                LookupError,
                TypeError,
                AttributeError,
                ValueError,
                ArithmeticError,
                RecursionError,
            ) as error:
                message = f"the body is not what {self.name} sends: {type(error).__name__}"
                raise HttpError(400, "invalid_body", message) from error
            if not result.events:
                return [], result.not_understood
            rows = fetch_all(connection, "send", events=events, source=f"webhook {self.name}")
        return [row["id"] for row in rows], result.not_understood

    def _with_ids(self, events: Sequence[Event], headers: Mapping[str, str]) -> Sequence[Event]:
        """The events, with ids made of the delivery's signed id for those that have none."""
        if not isinstance(self.signature, StandardWebhooks):
            return events
        delivery = headers.get("webhook-id")
        if delivery is None:
            return events
        return [
            event
            if event.id is not None
            else replace(event, id=f"{self.name}-{delivery}/{position}")
            for position, event in enumerate(events)
        ]
