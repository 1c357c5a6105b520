"""The mail family: `email/send.requested` -> prepare -> send -> track.

A mail is rendered and recorded as queued, sent through the mailer (SendGrid or the local outbox),
and recorded as sent. Suppressed addresses are dropped; a mail without any other recipient is not
sent, and its result says so.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from pipelines.events import RECIPIENTS, EmailSendRequested
from resources.email.addresses import bare, without_repeats
from resources.email.mailer import Mail, Mailer
from resources.email.plain_text import plain_text
from resources.email.tables import EmailMessages, Message
from resources.email.templates import Rendered, render_template
from runyard import Batch, Item, NonRetriable, step

PREPARE = "prepare-email"
# Concurrent requests to SendGrid; its package keeps half as many connections open.
_THREADS = 16


@step
def prepare_email(batch: Batch, messages: EmailMessages) -> Batch:
    """Render each mail, drop suppressed addresses, and record it as queued."""
    suppressed = messages.suppressed(
        address
        for item in batch.active_items()
        for address in (*item.data.to, *item.data.cc, *item.data.bcc)
    )
    batch.map(PREPARE, partial(_prepare, suppressed=suppressed))
    return batch.map_batch("record-message", partial(_record, messages=messages))


@step(name="send-via-sendgrid", threads=_THREADS, checkpoint_every=1)
def send_via_sendgrid(
    item: Item[EmailSendRequested], mailer: Mailer, messages: EmailMessages
) -> dict[str, Any]:
    """Send each mail; each message id is checkpointed at once, so a crash repeats few mails."""
    mail = item[PREPARE]["mail"]
    if mail is None:
        return {"status": "suppressed", "suppressed": item[PREPARE]["suppressed"]}
    try:
        return mailer.send(Mail.model_validate(mail))
    except NonRetriable as error:
        messages.mark_failed(mail["id"], str(error))
        raise


@step(name="track-delivery")
def track_delivery(
    items: Sequence[Item[EmailSendRequested]], messages: EmailMessages
) -> Sequence[dict[str, Any]]:
    """Record sent mails with the provider's message ids, by which delivery reports find them."""
    answers = [(item, send_via_sendgrid.result(item)) for item in items]
    messages.mark_sent(
        [
            (item[PREPARE]["mail"]["id"], answer["provider"], answer["message_id"])
            for item, answer in answers
            if answer["status"] == "sent"
        ]
    )
    return [
        {"message": item.key, **answer, "suppressed": item[PREPARE]["suppressed"]}
        for item, answer in answers
    ]


def _prepare(item: Item[EmailSendRequested], suppressed: set[str]) -> dict[str, Any]:
    """The mail as it will be sent (None without recipients), and the suppressed addresses."""
    data = item.data
    rendered = _rendered(data)
    if not rendered.subject.strip() or not (rendered.text + (rendered.html or "")).strip():
        raise NonRetriable(
            "there is nothing to send: the subject, or both text and HTML, are blank"
        )
    recipients = _recipients(item)
    remaining = {
        field: [address for address in addresses if bare(address) not in suppressed]
        for field, addresses in recipients.items()
    }
    dropped = sorted({bare(address) for address in chain(*recipients.values())} & suppressed)
    mail = Mail(
        id=item.key,
        **remaining,
        reply_to=data.reply_to,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        attachments=[attachment.model_dump() for attachment in data.attachments],
        send_at=data.send_at,
    )
    return {
        "mail": mail.model_dump(mode="json") if mail.to else None,
        "suppressed": dropped,
        "subject": rendered.subject,
    }


def _rendered(data: EmailSendRequested) -> Rendered:
    """The mail's content: from a template, or as written. A blank part counts as missing."""
    if data.template is not None:
        return render_template(data.template, data.data, data.subject)
    html = data.html if data.html and data.html.strip() else None
    text = data.text if data.text and data.text.strip() else plain_text(html or "")
    return Rendered(data.subject or "", text, html)


def _recipients(item: Item[EmailSendRequested]) -> dict[str, list[str]]:
    """All recipients, each in the first field that names them."""
    return without_repeats({field: getattr(item.data, field) for field in RECIPIENTS})


def _record(items: Sequence[Item[EmailSendRequested]], messages: EmailMessages) -> Sequence[str]:
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
