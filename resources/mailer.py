"""Where mails go: SendGrid when SENDGRID_API_KEY is set, else a local outbox of `.eml` files.

Both take a `Mail` and return what is to be remembered of it. The outbox says in every file that it delivered nothing.
"""

import base64
import os
from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any

from dagster import ConfigurableResource, EnvVar
from pydantic import BaseModel

from resources.sendgrid_client import SendGridAccount
from runyard.private_folders import make_folder, open_like
from runyard.settings import settings

DEFAULT_SENDER = "Runyard <no-reply@example.com>"
SENDGRID_HOST = "https://api.sendgrid.com"


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
        return {"provider": "outbox", "message_id": f"outbox-{mail.id}", "status": "sent", "delivered": False, "file": path.name}


class SendGridMailer(Mailer):
    """Sends through SendGrid's v3 API with the `sendgrid` package, over few kept connections."""

    api_key: str
    host: str = SENDGRID_HOST
    timeout: float = 15.0

    @property
    def provider(self) -> str:
        """`sendgrid`."""
        return "sendgrid"

    def send(self, mail: Mail) -> dict[str, Any]:
        """Send the mail; the message id is that of the X-Message-Id header."""
        message_id = SendGridAccount.get(self.api_key, self.host, self.timeout).send(_as_sendgrid(mail, self.sender))
        return {"provider": "sendgrid", "message_id": message_id, "status": "sent"}


def mailer_from_environment() -> Mailer:
    """The mailer that the environment asks for: SENDGRID_API_KEY, SENDGRID_API_HOST, MAIL_FROM, MAIL_OUTBOX."""
    sender = os.environ.get("MAIL_FROM") or DEFAULT_SENDER
    if os.environ.get("SENDGRID_API_KEY"):
        # By name, so that no page of Dagster shows its value.
        return SendGridMailer(api_key=EnvVar("SENDGRID_API_KEY"), host=os.environ.get("SENDGRID_API_HOST") or SENDGRID_HOST, sender=sender)
    return OutboxMailer(sender=sender)


def outbox_folder(given: str = "") -> Path:
    """The folder of the local outbox: the one given, MAIL_OUTBOX, or `outbox` in the data folder."""
    return Path(given or os.environ.get("MAIL_OUTBOX") or settings().data / "outbox")


def _as_message(mail: Mail, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(mail.to)
    for header, values in (("Cc", mail.cc), ("Bcc", mail.bcc), ("Reply-To", [mail.reply_to] if mail.reply_to else [])):
        if values:
            message[header] = ", ".join(values)
    message["Subject"] = mail.subject
    message["Message-ID"] = f"<{mail.id}@runyard.local>"
    message["X-Runyard-Outbox"] = "local outbox: this mail was not delivered; set SENDGRID_API_KEY to send"
    if mail.send_at is not None:
        message["X-Runyard-Send-At"] = format_datetime(mail.send_at)
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    for attachment in mail.attachments:
        main, sub = attachment["type"].split("/", 1)
        message.add_attachment(base64.b64decode(attachment["content"]), maintype=main, subtype=sub, filename=attachment["filename"])
    return message


def _as_sendgrid(mail: Mail, sender: str) -> dict[str, Any]:
    """The body of `POST /v3/mail/send` (SendGrid v3 reference)."""
    personalization: dict[str, Any] = {"to": _addresses(mail.to), "custom_args": {"message_id": mail.id}}
    if mail.cc:
        personalization["cc"] = _addresses(mail.cc)
    if mail.bcc:
        personalization["bcc"] = _addresses(mail.bcc)
    body: dict[str, Any] = {
        "personalizations": [personalization],
        "from": _addresses([sender])[0],
        "subject": mail.subject,
        "content": [{"type": "text/plain", "value": mail.text}],
    }
    if mail.html is not None:
        body["content"].append({"type": "text/html", "value": mail.html})
    if mail.reply_to:
        body["reply_to"] = _addresses([mail.reply_to])[0]
    if mail.attachments:
        body["attachments"] = [{**attachment, "disposition": "attachment"} for attachment in mail.attachments]
    if mail.send_at is not None:
        body["send_at"] = int(mail.send_at.timestamp())
    return body


def _addresses(texts: list[str]) -> list[dict[str, str]]:
    parsed = [parseaddr(text) for text in texts]
    return [{"email": address, "name": name} if name else {"email": address} for name, address in parsed]
