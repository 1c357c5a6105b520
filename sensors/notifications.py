"""The functions of the notification family."""

from pipelines.notifications import notify_user, send_digest, welcome_user
from runyard import BatchEvents, Retry, on_event

notify_user_sensor = on_event("notification/requested", job=notify_user, retry=Retry(attempts=8))
# A user's notifications of ten minutes become one mail.
send_digest_sensor = on_event(
    "notification/digest.requested",
    job=send_digest,
    batch=BatchEvents(max_size=100, timeout="10m", key="data.user"),
)
welcome_user_sensor = on_event("user/created", job=welcome_user, idempotency="data.user")
