"""Sends mail: through SendGrid when SENDGRID_API_KEY is set, else into an outbox of `.eml` files.

Both take a `Mail` and return what is to be recorded. The outbox says in every file that nothing was
delivered.
"""

import base64
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
from resources.settings import SENDGRID_HOST, EmailSettings
from runyard.errors import NonRetriable
from runyard.settings import settings
from runyard.store.data_folder import make_folder
from runyard.store.private_folders import open_like

_SEPARATORS = re.compile("[,;]")


class Mail(BaseModel):
    """A mail that is ready to send. `id` is our own; the provider's reports contain it."""

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

    sender: str = EmailSettings.model_fields["mail_from"].default

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
            A retry cannot help: the provider rejects this mail or our key.
        RetryAfter
            The provider asks us to wait.
        Exception
            Anything else, which a retry may fix.
        """


class OutboxMailer(Mailer):
    """Writes every mail as a file into a folder, for development; nothing is delivered."""

    folder: str = ""

    @property
    def provider(self) -> str:
        """`outbox`."""
        return "outbox"

    def send(self, mail: Mail) -> dict[str, Any]:
        """Write the mail; the file appears whole, and a repeated send replaces it."""
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
    """Sends through SendGrid's v3 API with the `sendgrid` package, over a few kept connections.

    `smtputf8` says that the account accepts addresses that are not ASCII before the @ (RFC 6531).
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
        """Send the mail; the message id is the X-Message-Id header of the answer."""
        if not self.smtputf8:
            _check_ascii([self.sender, *mail.to, *mail.cc, *mail.bcc, *_reply_to(mail)])
        message_id = SendGridAccount.get(self.api_key, self.host, self.timeout).send(
            _as_sendgrid(mail, self.sender)
        )
        return {"provider": "sendgrid", "message_id": message_id, "status": "sent"}


def mailer_from_settings() -> Mailer:
    """The mailer for the settings: SendGrid's with an API key, the outbox's without."""
    settings = EmailSettings.read()
    if settings.sendgrid_api_key is None:
        return OutboxMailer(sender=settings.mail_from)
    # The key goes by name, so that no page of Dagster shows its value.
    return SendGridMailer(
        api_key=EnvVar("SENDGRID_API_KEY"),
        host=settings.sendgrid_api_host,
        sender=settings.mail_from,
        smtputf8=settings.sendgrid_smtputf8,
    )


def outbox_folder(folder: str = "") -> Path:
    """The folder of the local outbox: the one given here, MAIL_OUTBOX, or the data folder's."""
    return Path(folder or EmailSettings.read().mail_outbox or settings().data / "outbox")


def _as_message(mail: Mail, sender: str) -> EmailMessage:
    everybody = [
        _mailbox(text) for text in (sender, *mail.to, *mail.cc, *mail.bcc, *_reply_to(mail))
    ]
    # Only a local part needs UTF-8 in headers (RFC 6532); everything else has an ASCII form.
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
    # SendGrid rejects an empty part.
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
    """Parse an address of a mail; raises `NonRetriable` where it is not one, such as MAIL_FROM."""
    try:
        return Mailbox.parse(text)
    except ValueError as error:
        raise NonRetriable(f"a mail cannot have this address: {error}") from None


def _check_ascii(texts: Sequence[str]) -> None:
    """Raise `NonRetriable` for an address that only a provider with SMTPUTF8 can deliver to."""
    for mailbox in map(_mailbox, texts):
        if not mailbox.local.isascii():
            raise NonRetriable(
                f"{mailbox.address} is not ASCII before the @, and SendGrid is not known to accept "
                "that: set SENDGRID_SMTPUTF8=1 where your account delivers to such addresses"
            )


def _header_address(text: str) -> Address:
    mailbox = _mailbox(text)
    return Address(mailbox.name, mailbox.local, mailbox.ascii_domain)


def _correspondent(text: str) -> dict[str, str]:
    """An address for SendGrid: a readable name, the domain in ASCII."""
    mailbox = _mailbox(text)
    return (
        {"email": mailbox.wire, "name": mailbox.name} if mailbox.name else {"email": mailbox.wire}
    )


def _recipient(text: str) -> dict[str, str]:
    """As `_correspondent`, with a name that SendGrid accepts for a recipient."""
    return {field: _unseparated(value) for field, value in _correspondent(text).items()}


def _file(attachment: Mapping[str, str]) -> dict[str, str]:
    """An attachment for SendGrid: a media type without parameters, a name that it accepts."""
    media_type = attachment["type"].partition(";")[0].strip()
    name = _unseparated(attachment["filename"]) or "attachment"
    return {
        "filename": name,
        "content": attachment["content"],
        "type": media_type,
        "disposition": "attachment",
    }


def _unseparated(text: str) -> str:
    """A text without commas and semicolons, which SendGrid rejects in names."""
    return " ".join(_SEPARATORS.sub(" ", text).split())
