"""The functions of the mail family."""

from pipelines.email import send_email
from runyard import Retry, on_event

# One run takes a burst of up to 500 mails; SendGrid's own limits are obeyed inside it.
send_email_sensor = on_event(
    "email/send.requested", job=send_email, max_batch=500, retry=Retry(attempts=5)
)
