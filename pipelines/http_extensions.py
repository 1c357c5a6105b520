"""This project's HTTP extensions: edge functions for mail, contact forms and texts; webhooks.

The webhooks are those of SendGrid, GitHub and Stripe.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

from anyio import CapacityLimiter, to_thread
from pydantic import Field, RootModel, model_validator
from pydantic_core import to_json
from sendgrid.helpers.eventwebhook import EventWebhook
from starlette.responses import Response

from pipelines.events import ContactSubmitted, EmailSendRequested, TextGenerateRequested
from resources.ai.calls import OverBudget
from resources.ai.generators import Generated, Prompt, Refused
from resources.ai.providers import NotSwitchedOn, Providers
from resources.email.delivery_reports import read_reports, save_reports
from resources.webhooks.tables import event_of
from runyard import Event, NonRetriable, RetryAfter
from runyard.events import millis
from runyard.gateway.api.extensions import (
    Webhook,
    WebhookRequest,
    WebhookResult,
    edge_function,
    send_for,
)
from runyard.gateway.api.schemas import Outcome
from runyard.gateway.api.wait import WaitQuery
from runyard.gateway.http.body_memory import LARGEST_BODY
from runyard.gateway.http.endpoint import Call, Endpoint, event_stream, json_response
from runyard.gateway.http.errors import HttpError, as_http_error
from runyard.gateway.http.signatures import BodyHmac, Stripe, require, secrets_of

# Concurrent texts: they take long, and must not use up the threads of other requests.
_TEXTS = 16
# GitHub's largest deliveries (25 MB) contain this many values where they list short names.
_GITHUB_VALUES = 1_000_000
_TEXT = "text/generate.requested"
_REPORTED = {
    "bounce": "email/bounced",
    "spamreport": "email/complained",
    "unsubscribe": "email/unsubscribed",
    "group_unsubscribe": "email/unsubscribed",
}


class GeminiBody(TextGenerateRequested):
    """A prompt; the text is the answer, is streamed, or is written in the background."""

    stream: bool = Field(
        default=False,
        description="Server-sent events: the text in pieces, then `done` with its metadata.",
    )
    background: bool = Field(
        default=False, description="Answer 202 at once; the text is the invocation's output."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.stream and self.background:
            raise ValueError("give stream or background, not both")
        return self


class GeminiAnswer(RootModel[Generated | Outcome]):
    """The text; in the background, the outcome of its event."""


async def gemini(call: Call) -> Response:
    """Generate a text."""
    body: GeminiBody = call.body
    data = body.model_dump(exclude={"stream", "background"}, exclude_unset=True)
    if body.background:
        return await send_for(call, Event(_TEXT, data))
    call.check_may_send(_TEXT)
    providers = Providers()
    if body.stream:
        return event_stream(_as_written(call, providers, Prompt(**data)))
    try:
        return json_response(
            await to_thread.run_sync(providers.generate, Prompt(**data), limiter=_limiter())
        )
    except Exception as error:
        raise _refusal(error) from error


async def _as_written(call: Call, providers: Providers, prompt: Prompt) -> AsyncIterator[bytes]:
    pieces = providers.pieces(prompt)
    try:
        while True:
            piece = await to_thread.run_sync(next, pieces, limiter=_limiter())
            await call.services.authenticator.check_still_valid(call.caller)
            if isinstance(piece, Generated):
                yield b"event: done\ndata: %s\n\n" % to_json(piece)
                return
            yield b"data: %s\n\n" % to_json({"text": piece})
    except Exception as error:
        problem = as_http_error(_refusal(error))
        yield b"event: error\ndata: %s\n\n" % to_json(
            {"status": problem.status, "code": problem.code, "error": str(problem)}
        )


def _refusal(error: Exception) -> Exception:
    """The HTTP error for a generator's error."""
    match error:
        case Refused():
            return HttpError(422, "refused", str(error))
        case NotSwitchedOn():
            return HttpError(400, "invalid_field", str(error), "provider")
        case OverBudget():
            return HttpError(429, "budget", str(error))
        case RetryAfter():
            seconds = error.when if isinstance(error.when, float | int) else 30
            return HttpError(503, "quota", str(error), headers={"Retry-After": str(round(seconds))})
        case NonRetriable() | ConnectionError():
            return HttpError(502, "provider", str(error))
        case _:
            return error


@lru_cache(maxsize=1)
def _limiter() -> CapacityLimiter:
    return CapacityLimiter(_TEXTS)


@dataclass(frozen=True)
class SendGridSignature:
    """Verifies SendGrid's signed event webhook; the variable contains the public key."""

    variable: str = "SENDGRID_WEBHOOK_PUBLIC_KEY"

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise `HttpError` (401) unless the request is signed by SendGrid.

        The time is not checked, because SendGrid retries for days; ids identify repeats.
        """
        signature, timestamp = (
            headers.get("x-twilio-email-event-webhook-signature", ""),
            headers.get("x-twilio-email-event-webhook-timestamp", ""),
        )
        require(bool(signature and timestamp))
        require(any(_signed(key, body, signature, timestamp) for key in secrets_of(self.variable)))


def _signed(key: str, body: bytes, signature: str, timestamp: str) -> bool:
    try:
        helper = EventWebhook(key)
    except ValueError:
        raise HttpError(
            401,
            "no_secret",
            "the signature cannot be verified: SENDGRID_WEBHOOK_PUBLIC_KEY is not a public key",
        ) from None
    try:
        return bool(helper.verify_signature(body.decode(), signature, timestamp))
    except ValueError:
        return False


def sendgrid_reports(incoming: WebhookRequest) -> WebhookResult:
    """Store SendGrid's reports, and send an event for each suppressed address.

    Elements that are not about a mail, or not understood, are reported back.
    """
    if not isinstance(incoming.json, list):
        raise HttpError(400, "invalid_body", "SendGrid's event webhook posts a JSON array")
    reports, not_understood = read_reports(incoming.json)
    events = [
        Event(
            _REPORTED[report.kind],
            {
                "address": report.address,
                "message": report.message_id,
                "reason": report.reason,
                "at": report.at.isoformat(),
            },
            id=f"sendgrid-{report.id}",
        )
        for report in save_reports(incoming.connection, reports)
        if report.kind in _REPORTED and (report.kind != "bounce" or report.hard)
    ]
    return WebhookResult(events, not_understood)


def github_events(incoming: WebhookRequest) -> Sequence[Event]:
    """GitHub's delivery as an event `github/<event>`."""
    for header in ("X-GitHub-Event", "X-GitHub-Delivery"):
        if header not in incoming.headers:
            raise HttpError(400, "invalid_request", f"the header {header} is missing")
    name, delivery = incoming.headers["x-github-event"], incoming.headers["x-github-delivery"]
    return [event_of(incoming.connection, f"github/{name}", incoming.json, f"github-{delivery}")]


def stripe_events(incoming: WebhookRequest) -> Sequence[Event]:
    """Stripe's event as `stripe/<type>`, with its object as data.

    A thin event, which only refers to its object, is passed on as it is.
    """
    event = incoming.json
    thin = str(event.get("object")).startswith("v2.") or "related_object" in event
    data = event if thin else event["data"]["object"]
    created = event["created"]
    at = datetime.fromisoformat(created) if thin else datetime.fromtimestamp(created, UTC)
    name, delivery = f"stripe/{event['type']}", f"stripe-{event['id']}"
    return [event_of(incoming.connection, name, data, delivery, millis(at))]


ENDPOINTS = [
    edge_function("send-email", EmailSendRequested, "email/send.requested", "Send a mail."),
    edge_function(
        "contact-notification",
        ContactSubmitted,
        "contact/submitted",
        "Notify the staff of a contact form.",
    ),
    Endpoint(
        "POST",
        "/functions/v1/gemini",
        gemini,
        "Edge functions",
        "Generate a text.",
        "send",
        query=WaitQuery,
        body=GeminiBody,
        response=GeminiAnswer,
        other_responses={202: ("it is generated in the background", Outcome)},
        errors=(422, 429, 502),
        media_types=("text/event-stream",),
    ),
    Webhook(
        "sendgrid",
        SendGridSignature(),
        sendgrid_reports,
        "SendGrid's event webhook: delivery reports.",
    ).endpoint(),
    Webhook(
        "github",
        BodyHmac("GITHUB_WEBHOOK_SECRET"),
        github_events,
        "GitHub's deliveries, as events `github/<event>`.",
        max_bytes=LARGEST_BODY,
        max_values=_GITHUB_VALUES,
        form_field="payload",
    ).endpoint(),
    Webhook(
        "stripe",
        Stripe("STRIPE_WEBHOOK_SECRET"),
        stripe_events,
        "Stripe's events, as `stripe/<type>`.",
    ).endpoint(),
]
