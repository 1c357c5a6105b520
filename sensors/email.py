"""The function of the mail family."""

from pipelines.email import prepare_email, send_via_sendgrid, track_delivery
from pipelines.events import EmailSendRequested
from runyard import Retry, Run, function


# One run takes up to 500 mails of a burst, and respects SendGrid's own limits.
@function(EmailSendRequested, max_batch=500, retry=Retry(attempts=5))
def send_email(run: Run) -> None:
    """Send mails: email/send.requested"""
    prepare_email(run)
    send_via_sendgrid(run)
    track_delivery(run)
