"""Notifications: in the application, by mail and by webhook, as each user prefers.

`notification/requested` notifies a user; `user/created` sends a welcome. Channels that the user has
switched off are dropped. Mail and webhooks wait for the end of quiet hours. A user with digests
gets one mail for everything that arrives within some minutes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.events import NotificationRequested, UserCreated
from resources.notifications.tables import Notifications, Preferences
from resources.notifications.webhook_sender import WebhookSender
from runyard import Batch, Event, Item, step
from runyard.clock import now

_MAIL = "email/send.requested"
_ASKED = {"title", "message", "action_url"}  # what a mail shows of a notification
_Notification = Item[NotificationRequested]


@step(name="choose-channels")
def choose_channels(
    items: Sequence[_Notification], notifications: Notifications
) -> Sequence[dict[str, Any]]:
    """Choose each user's channels, and the time from which they may be used."""
    known = notifications.preferences(sorted({item.data.user for item in items}))
    return [_chosen(item, known[item.data.user]) for item in items]


@step(name="show-in-app")
def show_in_app(items: Sequence[_Notification], notifications: Notifications) -> Sequence[bool]:
    """Show the notification in the application at once."""
    is_shown = ["in-app" in choose_channels.result(item)["channels"] for item in items]
    fields = {*_ASKED, "user", "kind"}
    notifications.add(
        [
            {"id": item.key, **item.data.model_dump(include=fields)}
            for item, shown in zip(items, is_shown, strict=True)
            if shown
        ]
    )
    return is_shown


def quiet_end(item: _Notification) -> datetime:
    """Return when the quiet hours end; only then may mail and webhooks go out."""
    quiet_until = choose_channels.result(item)["quiet_until"]
    return datetime.fromisoformat(quiet_until) if quiet_until else now()


def mail(item: _Notification) -> Sequence[Event]:
    """Request a mail, or a place in the next digest."""
    chosen = choose_channels.result(item)
    if "mail" not in chosen["channels"]:
        return []
    data = item.data.model_dump(include=_ASKED, exclude_none=True)
    if chosen["digest"]:
        return [
            Event(
                "notification/digest.requested",
                {"user": item.data.user, "email": chosen["email"], **data},
            )
        ]
    return [_mail(chosen["email"], "notification", data)]


@step(
    op="post_webhook",
    threads=8,
    checkpoint_every=1,
    when=lambda item: "webhook" in choose_channels.result(item)["channels"],
)
def webhook(item: _Notification, webhooks: WebhookSender) -> dict[str, Any]:
    """Post the notification to the user's own URL, signed."""
    body = {
        "type": "notification",
        "timestamp": now().isoformat(),
        "data": item.data.model_dump(exclude={"channels"}, exclude_none=True),
    }
    return webhooks.post(choose_channels.result(item)["webhook_url"], item.key, body)


@step
def result(item: _Notification) -> dict[str, Any]:
    """Return which channels were used, and which were dropped."""
    chosen = choose_channels.result(item)
    return {key: chosen[key] for key in ("channels", "dropped")}


@step
def send_digest_mail(batch: Batch) -> Batch:
    """Request one mail for the whole run, which contains the notifications of one user."""
    items = list(batch.active_items())
    parts = [item.data.model_dump(include=_ASKED, exclude_none=True) for item in items]

    def mail(item: Item) -> Sequence[Event]:
        if item is not items[0]:
            return []
        return [_mail(item.data.email, "digest", {"notifications": parts})]

    return batch.send_events("mail", mail)


def welcome_mail(item: Item[UserCreated]) -> Event:
    """Request the welcome mail."""
    return _mail_to_user(item, "welcome")


# A step of its own, as Dagster takes no op that is called like its step, `return`.
@step
def wait_for_return(batch: Batch) -> Batch:
    """Wait for the user to come back; the first hour counts as the first visit."""
    return batch.wait_for_event("return", "user/returned", match="data.user", timeout="71h")


def follow_up_mail(item: Item[UserCreated]) -> Sequence[Event]:
    """Request a second mail for those who have not come back."""
    return [_mail_to_user(item, "follow_up")] if item["return"] is None else []


def _chosen(item: _Notification, preferences: Preferences) -> dict[str, Any]:
    channels, dropped = preferences.channels_for(item.data.kind, item.data.channels)
    quiet_end = preferences.quiet_end(now()) if set(channels) - {"in-app"} else None
    return {
        "channels": channels,
        "dropped": dropped,
        "quiet_until": quiet_end.isoformat() if quiet_end else None,
        **preferences.model_dump(include={"email", "webhook_url", "digest"}),
    }


def _mail_to_user(item: Item[UserCreated], template: str) -> Event:
    data = item.data.model_dump(include={"name", "product", "action_url"}, exclude_none=True)
    return _mail(item.data.email, template, data)


def _mail(to: str, template: str, data: Mapping[str, Any]) -> Event:
    return Event(_MAIL, {"to": [to], "template": template, "data": data})
