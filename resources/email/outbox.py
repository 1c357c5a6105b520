"""Reads mails from the local outbox, as a recipient would have received them."""

import email
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default as modern

from resources.email.mailer import outbox_folder

_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

# The longest file name, with the suffix.
_LONGEST_ID = 250


@dataclass(frozen=True)
class Attachment:
    """A file attached to a mail."""

    name: str
    type: str
    content: bytes


@dataclass(frozen=True)
class OutboxMail:
    """A mail in the outbox: headers in order, text, HTML (None where absent) and attachments."""

    headers: Sequence[tuple[str, str]]
    text: str
    html: str | None
    attachments: Sequence[Attachment]


def read_mail(mail_id: str) -> OutboxMail | None:
    """The mail with this id; None where the outbox does not have it (any more)."""
    if len(mail_id) > _LONGEST_ID or not _ID.fullmatch(mail_id):
        return None
    try:
        raw = (outbox_folder() / f"{mail_id}.eml").read_bytes()
    except FileNotFoundError:
        return None
    message = email.message_from_bytes(raw, policy=modern)
    return OutboxMail(
        [(name, str(value)) for name, value in message.items()],
        _body(message, "plain") or "",
        _body(message, "html"),
        [
            Attachment(part.get_filename() or "attachment", part.get_content_type(), _content(part))
            for part in message.iter_attachments()
        ],
    )


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return str(part.get_content()) if part is not None else None


def _content(part: EmailMessage) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
