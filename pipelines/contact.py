"""The contact form: `contact/submitted` -> spam checks -> mail to the staff -> acknowledgement."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pipelines.events import ContactSubmitted
from resources.contact.recipient import ContactRecipient
from resources.contact.tables import ContactMessages
from resources.email.addresses import bare, split
from runyard import Batch, Event, Item, NonRetriable, step

_MAIL = "email/send.requested"


@step(name="check-for-spam")
def check_for_spam(
    item: Item[ContactSubmitted], contact_messages: ContactMessages
) -> dict[str, Any]:
    """Save each message, with its spam checks and whether its sender gets an acknowledgement."""
    return contact_messages.save(item.key, str(item.event.id), item.data)


@step
def notify_staff(batch: Batch, contact_recipient: ContactRecipient) -> Batch:
    """Request a mail to the staff, with the visitor as Reply-To, and an acknowledgement.

    Nothing is sent about spam.
    """
    mails = partial(_mails, recipient=contact_recipient.address)
    return batch.send_events("notify-staff", mails)


def _mails(item: Item[ContactSubmitted], recipient: str) -> Sequence[Event]:
    checked, data = check_for_spam.result(item), item.data
    if checked["spam"]:
        return []
    if not recipient:
        raise NonRetriable(
            "no recipient is configured: set CONTACT_TO to the address for contact forms"
        )
    to_staff = Event(
        _MAIL,
        {
            "to": split(recipient),
            "reply_to": data.email,
            "template": "contact",
            "data": {"name": data.name, "email": data.email, "message": data.message},
        },
    )
    if checked["unacknowledged"]:
        return [to_staff]
    # Visitors may enter anybody's address, so nothing that they wrote is sent there.
    return [to_staff, Event(_MAIL, {"to": [bare(data.email)], "template": "contact_received"})]
