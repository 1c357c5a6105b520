"""The contact form: `contact/submitted` -> a mail to the staff, which the mail family sends."""

from dagster import in_process_executor, job, op

from resources.staff import Staff
from runyard import Batch, Event, Item, NonRetriable, receive, settle


@op
def notify_staff(batch: Batch, staff: Staff) -> Batch:
    """Ask for a mail to the staff, with the visitor as the one to answer to."""

    def mail(item: Item) -> Event:
        if not staff.address:
            raise NonRetriable("nobody is to be told: set CONTACT_TO to the address that contact forms go to")
        data = {"name": item.data.name, "email": item.data.email, "message": item.data.message}
        return Event("email/send.requested", {"to": [staff.address], "reply_to": item.data.email, "template": "contact", "data": data})

    return batch.send_events("notify-staff", mail)


@job(executor_def=in_process_executor, description="Tell the staff of a contact form: contact/submitted")
def notify_contact() -> None:
    """The function's graph."""
    settle(notify_staff(receive()))
