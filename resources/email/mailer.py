"""Where mails go: SendGrid when SENDGRID_API_KEY is set, else a local outbox of `.eml` files.

Both take a `Mail` and return what is to be remembered of it. The outbox says in every file that it delivered nothing.
"""

import base64
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import default
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource, EnvVar
from pydantic import BaseModel

from resources.email.addresses import Mailbox
from resources.email.sendgrid_client import SendGridAccount
from runyard.errors import NonRetriable
from runyard.settings import settings
from runyard.store.data_folder import make_folder
from runyard.store.private_folders import open_like

DEFAULT_SENDER = "Runyard <no-reply@example.com>"
SENDGRID_HOST = "https://api.sendgrid.com"
_SEPARATORS = re.compile("[,;]")


class Mail(BaseModel):
    """A mail that is ready to go. `id` is our own; it comes back in the provider's reports."""

    id: str
    to: list[str]
    cc: list[str] = []
    bcc: list[str] = []
    reply_to: str | None = None
    subject: str
    text: str
    html: str | None = None
    attachments: list[Mapping[str, str]] = []
    send_at: datetime | None = None


class Mailer(ConfigurableResource[Any]):
    """Sends mails. `sender` is the From address."""

    sender: str = DEFAULT_SENDER

    @property
    @abstractmethod
    def provider(self) -> str:
        """The name under which messages are recorded."""

    @abstractmethod
    def send(self, mail: Mail) -> dict[str, Any]:
        """Send one mail; return `provider`, `message_id` and `status`.

        Raises
        ------
        NonRetriable
            No other attempt can help: the provider refuses this mail or our key.
        RetryAfter
            The provider asks to wait.
        Exception
            Anything else that another attempt may mend.
        """


class OutboxMailer(Mailer):
    """Writes every mail as a file into a folder: for development, nothing is delivered."""

    folder: str = ""

    @property
    def provider(self) -> str:
        """`outbox`."""
        return "outbox"

    def send(self, mail: Mail) -> dict[str, Any]:
        """Write the mail; the file appears whole, under the mail's own id, so that a repeated send replaces it."""
        path = outbox_folder(self.folder) / f"{mail.id}.eml"
        make_folder(path.parent)
        hidden = path.with_suffix(".writing")
        hidden.write_bytes(bytes(_as_message(mail, self.sender)))
        open_like(path.parent, hidden)
        hidden.rename(path)
        return {
            "provider": "outbox",
            "message_id": f"outbox-{mail.id}",
            "status": "sent",
            "delivered": False,
            "file": path.name,
        }


class SendGridMailer(Mailer):
    """Sends through SendGrid's v3 API with the `sendgrid` package, over few kept connections.

    `smtputf8` says that the account takes addresses whose part before the @ is not ASCII (RFC 6531).
    """

    api_key: str
    host: str = SENDGRID_HOST
    timeout: float = 15.0
    smtputf8: bool = False

    @property
    def provider(self) -> str:
        """`sendgrid`."""
        return "sendgrid"

    def send(self, mail: Mail) -> dict[str, Any]:
        """Send the mail; the message id is that of the X-Message-Id header."""
        if not self.smtputf8:
            _check_ascii([self.sender, *mail.to, *mail.cc, *mail.bcc, *_reply_to(mail)])
        message_id = SendGridAccount.get(self.api_key, self.host, self.timeout).send(
            _as_sendgrid(mail, self.sender)
        )
        return {"provider": "sendgrid", "message_id": message_id, "status": "sent"}


def mailer_from_environment() -> Mailer:
    """The mailer that the environment asks for: SENDGRID_API_KEY, SENDGRID_API_HOST, SENDGRID_SMTPUTF8, MAIL_FROM, MAIL_OUTBOX."""
    sender = os.environ.get("MAIL_FROM") or DEFAULT_SENDER
    if os.environ.get("SENDGRID_API_KEY"):
        # By name, so that no page of Dagster shows its value.
        return SendGridMailer(
            api_key=EnvVar("SENDGRID_API_KEY"),
            host=os.environ.get("SENDGRID_API_HOST") or SENDGRID_HOST,
            sender=sender,
            smtputf8=os.environ.get("SENDGRID_SMTPUTF8") == "1",
        )
    return OutboxMailer(sender=sender)


def outbox_folder(given: str = "") -> Path:
    """The folder of the local outbox: the one given, MAIL_OUTBOX, or `outbox` in the data folder."""
    return Path(given or os.environ.get("MAIL_OUTBOX") or settings().data / "outbox")


def _as_message(mail: Mail, sender: str) -> EmailMessage:
    everybody = [
        _mailbox(text) for text in (sender, *mail.to, *mail.cc, *mail.bcc, *_reply_to(mail))
    ]
    # Only a local part needs the headers in UTF-8 (RFC 6532); of all else there is an ASCII form.
    plain = all(mailbox.local.isascii() for mailbox in everybody)
    message = EmailMessage(default if plain else default.clone(utf8=True))
    message["From"] = _header_address(sender)
    for header, texts in {
        "To": mail.to,
        "Cc": mail.cc,
        "Bcc": mail.bcc,
        "Reply-To": _reply_to(mail),
    }.items():
        if texts:
            message[header] = [_header_address(text) for text in texts]
    message["Subject"] = mail.subject
    message["Message-ID"] = f"<{mail.id}@runyard.local>"
    message["X-Runyard-Outbox"] = (
        "local outbox: this mail was not delivered; set SENDGRID_API_KEY to send"
    )
    if mail.send_at is not None:
        message["X-Runyard-Send-At"] = format_datetime(mail.send_at)
    if mail.html is not None and not mail.text.strip():
        message.set_content(mail.html, subtype="html")
    else:
        message.set_content(mail.text)
        if mail.html is not None:
            message.add_alternative(mail.html, subtype="html")
    for attachment in mail.attachments:
        _attach(message, attachment)
    return message


def _attach(message: EmailMessage, attachment: Mapping[str, str]) -> None:
    media_type = EmailMessage()
    media_type["Content-Type"] = attachment["type"]
    message.add_attachment(
        base64.b64decode(attachment["content"]),
        maintype=media_type.get_content_maintype(),
        subtype=media_type.get_content_subtype(),
        filename=attachment["filename"],
        params=dict(media_type["Content-Type"].params),
    )


def _as_sendgrid(mail: Mail, sender: str) -> dict[str, Any]:
    """The body of `POST /v3/mail/send` (SendGrid v3 reference)."""
    recipients = {"to": mail.to, "cc": mail.cc, "bcc": mail.bcc}
    personalization: dict[str, Any] = {"custom_args": {"message_id": mail.id}}
    personalization |= {
        field: [_recipient(text) for text in texts] for field, texts in recipients.items() if texts
    }
    # A part without a character is refused.
    parts = {"text/plain": mail.text if mail.text.strip() else None, "text/html": mail.html}
    body: dict[str, Any] = {
        "personalizations": [personalization],
        "from": _correspondent(sender),
        "subject": mail.subject,
        "content": [{"type": kind, "value": value} for kind, value in parts.items() if value],
    }
    if mail.reply_to:
        body["reply_to"] = _correspondent(mail.reply_to)
    if mail.attachments:
        body["attachments"] = [_file(attachment) for attachment in mail.attachments]
    if mail.send_at is not None:
        body["send_at"] = int(mail.send_at.timestamp())
    return body


def _reply_to(mail: Mail) -> list[str]:
    return [mail.reply_to] if mail.reply_to else []


def _mailbox(text: str) -> Mailbox:
    """An address that a mail has; raises `NonRetriable` for what is none, such as a MAIL_FROM."""
    try:
        return Mailbox.parse(text)
    except ValueError as error:
        raise NonRetriable(f"a mail cannot have this address: {error}") from None


def _check_ascii(texts: Sequence[str]) -> None:
    """Raise `NonRetriable` for an address that only a provider with SMTPUTF8 can deliver to."""
    for mailbox in map(_mailbox, texts):
        if not mailbox.local.isascii():
            raise NonRetriable(
                f"{mailbox.address} is not ASCII before the @, which SendGrid is not asked to take: set SENDGRID_SMTPUTF8=1 where your account delivers to such addresses"
            )


def _header_address(text: str) -> Address:
    mailbox = _mailbox(text)
    return Address(mailbox.name, mailbox.local, mailbox.ascii_domain)


def _correspondent(text: str) -> dict[str, str]:
    """An address as SendGrid takes it: names as they are read, domains in ASCII."""
    mailbox = _mailbox(text)
    return (
        {"email": mailbox.wire, "name": mailbox.name} if mailbox.name else {"email": mailbox.wire}
    )


def _recipient(text: str) -> dict[str, str]:
    """As `_correspondent`, with a name that SendGrid takes of a recipient."""
    return {field: _unseparated(value) for field, value in _correspondent(text).items()}


def _file(attachment: Mapping[str, str]) -> dict[str, str]:
    """An attachment as SendGrid takes it: a media type without parameters, a name that it takes."""
    media_type = attachment["type"].partition(";")[0].strip()
    name = _unseparated(attachment["filename"]) or "attachment"
    return {
        "filename": name,
        "content": attachment["content"],
        "type": media_type,
        "disposition": "attachment",
    }


def _unseparated(text: str) -> str:
    """A text without commas and semicolons, which SendGrid refuses in names."""
    return " ".join(_SEPARATORS.sub(" ", text).split())
