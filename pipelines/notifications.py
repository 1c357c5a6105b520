"""Notifications: in the application, by mail and by webhook, as each user prefers.

`notification/requested` notifies a user; `user/created` sends a welcome. Channels that the user has
switched off are dropped. Mail and webhooks wait for the end of quiet hours. A user with digests
gets one mail for everything that arrives within some minutes.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dagster import in_process_executor, job, op

from resources.notifications.tables import Notifications, Preferences
from resources.notifications.webhook_sender import WebhookSender
from runyard import Batch, Event, Item, receive, settle
from runyard.clock import now

CHANNELS = "choose-channels"
IN_APP = "show-in-app"
QUIET = "quiet-hours"
MAIL = "mail"
WEBHOOK = "webhook"
RESULT = "result"
_MAIL = "email/send.requested"


@op
def choose_channels(batch: Batch, notifications: Notifications) -> Batch:
    """Choose each user's channels, and the time from which they may be used."""

    def choose(items: Sequence[Item]) -> list[dict[str, Any]]:
        known = notifications.preferences(sorted({item.data.user for item in items}))
        return [_chosen(item, known[item.data.user]) for item in items]

    return batch.map_batch(CHANNELS, choose)


@op
def show_in_app(batch: Batch, notifications: Notifications) -> Batch:
    """Show the notification in the application at once."""

    def show(items: Sequence[Item]) -> list[bool]:
        is_shown = ["in-app" in item[CHANNELS]["channels"] for item in items]
        fields = {"user", "kind", "title", "message", "action_url"}
        notifications.add(
            [
                {"id": item.key, **item.data.model_dump(include=fields)}
                for item, shown in zip(items, is_shown, strict=True)
                if shown
            ]
        )
        return is_shown

    return batch.map_batch(IN_APP, show)


@op
def wait_for_quiet_hours(batch: Batch) -> Batch:
    """Sleep until the quiet hours end; only then may mail and webhooks go out."""

    def quiet_end(item: Item) -> datetime:
        quiet_until = item[CHANNELS]["quiet_until"]
        return datetime.fromisoformat(quiet_until) if quiet_until else now()

    return batch.sleep_until(QUIET, quiet_end)


@op
def send_mail(batch: Batch) -> Batch:
    """Request a mail, or a place in the next digest."""

    def mail(item: Item) -> list[Event]:
        chosen = item[CHANNELS]
        if "mail" not in chosen["channels"]:
            return []
        data = item.data.model_dump(include={"title", "message", "action_url"}, exclude_none=True)
        if chosen["digest"]:
            return [
                Event(
                    "notification/digest.requested",
                    {"user": item.data.user, "email": chosen["email"], **data},
                )
            ]
        return [Event(_MAIL, {"to": [chosen["email"]], "template": "notification", "data": data})]

    return batch.send_events(MAIL, mail)


@op
def post_webhook(batch: Batch, webhooks: WebhookSender) -> Batch:
    """Post the notification to the user's own URL, signed."""

    def post(item: Item) -> dict[str, Any]:
        body = {
            "type": "notification",
            "timestamp": now().isoformat(),
            "data": item.data.model_dump(exclude={"channels"}, exclude_none=True),
        }
        return webhooks.post(item[CHANNELS]["webhook_url"], item.key, body)

    batch.map(
        WEBHOOK,
        post,
        threads=8,
        checkpoint_every=1,
        when=lambda item: "webhook" in item[CHANNELS]["channels"],
    )
    return batch.map(
        RESULT, lambda item: {key: item[CHANNELS][key] for key in ("channels", "dropped")}
    )


@job(executor_def=in_process_executor, description="Notify a user: notification/requested")
def notify_user() -> None:
    """The function's graph."""
    settle(post_webhook(send_mail(wait_for_quiet_hours(show_in_app(choose_channels(receive()))))))


@op
def send_digest_mail(batch: Batch) -> Batch:
    """Request one mail for the whole run, which contains the notifications of one user."""
    items = list(batch.active_items())
    parts = [
        item.data.model_dump(include={"title", "message", "action_url"}, exclude_none=True)
        for item in items
    ]

    def mail(item: Item) -> list[Event]:
        if item is not items[0]:
            return []
        return [
            Event(
                _MAIL,
                {"to": [item.data.email], "template": "digest", "data": {"notifications": parts}},
            )
        ]

    return batch.send_events(MAIL, mail)


@job(
    executor_def=in_process_executor,
    description="One mail for many notifications: notification/digest.requested",
)
def send_digest() -> None:
    """The function's graph."""
    settle(send_digest_mail(receive()))


@op
def welcome(batch: Batch) -> Batch:
    """Request the welcome mail."""
    return batch.send_events("welcome", lambda item: _mail_to_user(item, "welcome"))


@op
def wait_for_return(batch: Batch) -> Batch:
    """Wait for the user to come back; the first hour counts as the first visit."""
    batch.sleep("first-visit", "1h")
    return batch.wait_for_event("return", "user/returned", match="data.user", timeout="71h")


@op
def follow_up(batch: Batch) -> Batch:
    """Request a second mail for those who have not come back."""
    return batch.send_events(
        "follow-up", lambda item: _mail_to_user(item, "follow_up") if item["return"] is None else []
    )


@job(
    executor_def=in_process_executor,
    description="Welcome a new user, and follow up after three days: user/created",
)
def welcome_user() -> None:
    """The function's graph."""
    settle(follow_up(wait_for_return(welcome(receive()))))


def _chosen(item: Item, preferences: Preferences) -> dict[str, Any]:
    channels, dropped = preferences.channels_for(item.data.kind, item.data.channels)
    quiet_end = preferences.quiet_end(now()) if set(channels) - {"in-app"} else None
    return {
        "channels": channels,
        "dropped": dropped,
        "quiet_until": quiet_end.isoformat() if quiet_end else None,
        **preferences.model_dump(include={"email", "webhook_url", "digest"}),
    }


def _mail_to_user(item: Item, template: str) -> list[Event]:
    data = item.data.model_dump(include={"name", "product", "action_url"}, exclude_none=True)
    return [Event(_MAIL, {"to": [item.data.email], "template": template, "data": data})]
