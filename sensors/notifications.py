"""The functions of the notification family."""

from pipelines.events import NotificationDigestRequested, NotificationRequested, UserCreated
from pipelines.notifications import (
    choose_channels,
    follow_up_mail,
    mail,
    quiet_end,
    result,
    send_digest_mail,
    show_in_app,
    wait_for_return,
    webhook,
    welcome_mail,
)
from runyard import BatchEvents, Retry, Run, function


@function(NotificationRequested, retry=Retry(attempts=8))
def notify_user(run: Run) -> None:
    """Notify a user: notification/requested"""
    choose_channels(run)
    show_in_app(run)
    run.sleep_until("quiet-hours", quiet_end)
    run.send_events("mail", mail)
    webhook(run)
    result(run)


# A user's notifications of ten minutes become one mail.
@function(
    NotificationDigestRequested, batch=BatchEvents(max_size=100, timeout="10m", key="data.user")
)
def send_digest(run: Run) -> None:
    """One mail for many notifications: notification/digest.requested"""
    send_digest_mail(run)


@function(UserCreated, idempotency="data.user")
def welcome_user(run: Run) -> None:
    """Welcome a new user, and follow up after three days: user/created"""
    run.send_events("welcome", welcome_mail)
    run.sleep("first-visit", "1h")  # what comes in the first hour is the first visit
    wait_for_return(run)
    run.send_events("follow-up", follow_up_mail)
