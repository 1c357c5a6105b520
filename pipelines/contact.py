"""The contact form: `contact/submitted` -> spam checks -> a mail to the staff -> an acknowledgement to the sender."""

from dagster import in_process_executor, job, op

from resources.contact.messages import ContactMessages
from resources.contact.recipient import Staff
from resources.email.addresses import bare, split
from runyard import Batch, Event, Item, NonRetriable, receive, settle

CHECK, NOTIFY = "check-for-spam", "notify-staff"
_MAIL = "email/send.requested"


@op
def check_for_spam(batch: Batch, contact_messages: ContactMessages) -> Batch:
    """Keep each message, with what makes it look like spam, and whether its sender is told."""
    return batch.map(
        CHECK, lambda item: contact_messages.keep(item.key, str(item.event.id), item.data)
    )


@op
def notify_staff(batch: Batch, staff: Staff) -> Batch:
    """Ask for a mail to the staff, with the visitor as the one to answer to, and for one that tells the visitor; nobody is told of spam."""

    def mails(item: Item) -> list[Event]:
        if item[CHECK]["spam"]:
            return []
        if not staff.address:
            raise NonRetriable(
                "nobody is to be told: set CONTACT_TO to the address that contact forms go to"
            )
        data = {"name": item.data.name, "email": item.data.email, "message": item.data.message}
        to_staff = Event(
            _MAIL,
            {
                "to": split(staff.address),
                "reply_to": item.data.email,
                "template": "contact",
                "data": data,
            },
        )
        if item[CHECK]["unacknowledged"]:
            return [to_staff]
        # Anybody may have written anybody's address: so nothing of what was written goes there, not even a name.
        return [
            to_staff,
            Event(_MAIL, {"to": [bare(item.data.email)], "template": "contact_received"}),
        ]

    return batch.send_events(NOTIFY, mails)


@job(
    executor_def=in_process_executor,
    description="Tell the staff of a contact form: contact/submitted",
)
def notify_contact() -> None:
    """The function's graph."""
    settle(notify_staff(check_for_spam(receive())))
