"""The functions of the mail family."""

from pipelines.email import send_email
from runyard import Retry, on_event

# One run takes up to 500 mails of a burst, and respects SendGrid's own limits.
send_email_sensor = on_event(
    "email/send.requested", job=send_email, max_batch=500, retry=Retry(attempts=5)
)
