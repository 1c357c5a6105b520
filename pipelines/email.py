"""The mail family: `email/send.requested` -> prepare -> send -> track.

A mail is rendered and recorded as queued, sent through the mailer (SendGrid, or the local outbox), and recorded as
sent. Addresses that are suppressed are left out; a mail without any other recipient is not sent, which is said in its result.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from dagster import in_process_executor, job, op

from pipelines.events import RECIPIENTS, EmailSendRequested
from resources.email.addresses import bare, without_repeats
from resources.email.mailer import Mail, Mailer
from resources.email.messages import EmailMessages, Message
from resources.email.plain_text import plain_text
from resources.email.templates import Rendered, render_template
from runyard import Batch, Item, NonRetriable, receive, settle

PREPARE, RECORD, SEND, TRACK = (
    "prepare-email",
    "record-message",
    "send-via-sendgrid",
    "track-delivery",
)
# Requests to SendGrid at a time; its package keeps half as many connections open.
_THREADS = 16


@op
def prepare_email(batch: Batch, messages: EmailMessages) -> Batch:
    """Render each mail, leave out suppressed addresses, record it as queued."""
    suppressed = messages.suppressed(
        address
        for item in batch.active_items()
        for address in (*item.data.to, *item.data.cc, *item.data.bcc)
    )
    batch.map(PREPARE, lambda item: _prepare(item, suppressed))
    return batch.map_batch(RECORD, lambda items: _record(items, messages))


@op
def send_via_sendgrid(batch: Batch, mailer: Mailer, messages: EmailMessages) -> Batch:
    """Send each prepared mail; remember the provider's message id at once, so that a crash repeats as few as can be."""

    def send(item: Item) -> dict[str, Any]:
        mail = item[PREPARE]["mail"]
        if mail is None:
            return {"status": "suppressed", "suppressed": item[PREPARE]["suppressed"]}
        try:
            return mailer.send(Mail.model_validate(mail))
        except NonRetriable as error:
            messages.mark_failed(mail["id"], str(error))
            raise

    return batch.map(SEND, send, threads=_THREADS, checkpoint_every=1)


@op
def track_delivery(batch: Batch, messages: EmailMessages) -> Batch:
    """Record what was sent, with the provider's message id; reports of delivery find it by that."""

    def track(items: Sequence[Item]) -> list[dict[str, Any]]:
        sent = [item for item in items if item[SEND]["status"] == "sent"]
        messages.mark_sent(
            [
                (item[PREPARE]["mail"]["id"], item[SEND]["provider"], item[SEND]["message_id"])
                for item in sent
            ]
        )
        return [
            {"message": item.key, **item[SEND], "suppressed": item[PREPARE]["suppressed"]}
            for item in items
        ]

    return batch.map_batch(TRACK, track)


@job(executor_def=in_process_executor, description="Send mails: email/send.requested")
def send_email() -> None:
    """The function's graph: a mail for each event."""
    settle(track_delivery(send_via_sendgrid(prepare_email(receive()))))


def _prepare(item: Item, suppressed: set[str]) -> dict[str, Any]:
    """The mail as it will be sent (None when nobody is left to send it to), and the addresses that were left out."""
    data = item.data
    rendered = _rendered(data)
    if not rendered.subject.strip() or not (rendered.text + (rendered.html or "")).strip():
        raise NonRetriable(
            "there is nothing to send: the subject, or both text and HTML, are blank"
        )
    recipients = _recipients(item)
    kept = {
        field: [address for address in addresses if bare(address) not in suppressed]
        for field, addresses in recipients.items()
    }
    left_out = sorted({bare(address) for address in chain(*recipients.values())} & suppressed)
    mail = Mail(
        id=item.key,
        **kept,
        reply_to=data.reply_to,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        attachments=[attachment.model_dump() for attachment in data.attachments],
        send_at=data.send_at,
    )
    return {
        "mail": mail.model_dump(mode="json") if mail.to else None,
        "suppressed": left_out,
        "subject": rendered.subject,
    }


def _rendered(data: EmailSendRequested) -> Rendered:
    """What the mail says: of a template, or as it was written. A blank part is as good as none."""
    if data.template is not None:
        return render_template(data.template, data.data, data.subject)
    html = data.html if data.html and data.html.strip() else None
    text = data.text if data.text and data.text.strip() else plain_text(html or "")
    return Rendered(data.subject or "", text, html)


def _recipients(item: Item) -> dict[str, list[str]]:
    """Everybody whom the mail is to, once: where they stand first."""
    return without_repeats({field: getattr(item.data, field) for field in RECIPIENTS})


def _record(items: Sequence[Item], messages: EmailMessages) -> list[str]:
    rows = [
        Message(
            id=item.key,
            event_id=str(item.event.id),
            recipients=list(chain(*_recipients(item).values())),
            subject=item[PREPARE]["subject"],
            template=item.data.template,
            status="queued" if item[PREPARE]["mail"] else "suppressed",
        )
        for item in items
    ]
    messages.record(rows)
    return [row.id for row in rows]
