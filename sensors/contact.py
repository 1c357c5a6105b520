"""The function of the contact form."""

from pipelines.contact import check_for_spam, notify_staff
from pipelines.events import ContactSubmitted
from runyard import Run, function


@function(ContactSubmitted)
def notify_contact(run: Run) -> None:
    """Notify the staff of a contact form: contact/submitted"""
    check_for_spam(run)
    notify_staff(run)
