"""The contact form: `contact/submitted` -> spam checks -> mail to the staff -> acknowledgement."""

from dagster import in_process_executor, job, op

from resources.contact.recipient import ContactRecipient
from resources.contact.tables import ContactMessages
from resources.email.addresses import bare, split
from runyard import Batch, Event, Item, NonRetriable, receive, settle

CHECK, NOTIFY = "check-for-spam", "notify-staff"
_MAIL = "email/send.requested"


@op
def check_for_spam(batch: Batch, contact_messages: ContactMessages) -> Batch:
    """Save each message, with its spam checks and whether its sender gets an acknowledgement."""
    return batch.map(
        CHECK, lambda item: contact_messages.save(item.key, str(item.event.id), item.data)
    )


@op
def notify_staff(batch: Batch, contact_recipient: ContactRecipient) -> Batch:
    """Request a mail to the staff, with the visitor as Reply-To, and an acknowledgement.

    Nothing is sent about spam.
    """

    def mails(item: Item) -> list[Event]:
        if item[CHECK]["spam"]:
            return []
        if not contact_recipient.address:
            raise NonRetriable(
                "no recipient is configured: set CONTACT_TO to the address for contact forms"
            )
        data = {"name": item.data.name, "email": item.data.email, "message": item.data.message}
        to_staff = Event(
            _MAIL,
            {
                "to": split(contact_recipient.address),
                "reply_to": item.data.email,
                "template": "contact",
                "data": data,
            },
        )
        if item[CHECK]["unacknowledged"]:
            return [to_staff]
        # Visitors may enter anybody's address, so nothing that they wrote is sent there.
        return [
            to_staff,
            Event(_MAIL, {"to": [bare(item.data.email)], "template": "contact_received"}),
        ]

    return batch.send_events(NOTIFY, mails)


@job(
    executor_def=in_process_executor,
    description="Notify the staff of a contact form: contact/submitted",
)
def notify_contact() -> None:
    """The function's graph."""
    settle(notify_staff(check_for_spam(receive())))
