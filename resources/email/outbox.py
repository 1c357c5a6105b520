"""Reads the mails of the local outbox: what a recipient would have been sent."""

import email
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default as modern

from resources.email.mailer import outbox_folder

_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

# What a file system takes as a name, with the suffix.
_LONGEST_ID = 250


@dataclass(frozen=True)
class Attachment:
    """A file that went with a mail."""

    name: str
    type: str
    content: bytes


@dataclass(frozen=True)
class OutboxMail:
    """A mail as it lies in the outbox: its headers in their order, its text, its HTML (None where it has none), its attachments."""

    headers: Sequence[tuple[str, str]]
    text: str
    html: str | None
    attachments: Sequence[Attachment]


def read_mail(mail_id: str) -> OutboxMail | None:
    """The mail with this id; None where the outbox has none, or no more."""
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
    found = message.get_body((kind,))
    return str(found.get_content()) if found is not None else None


def _content(part: EmailMessage) -> bytes:
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""
