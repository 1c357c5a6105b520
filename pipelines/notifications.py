"""Notifications: `notification/requested` -> in the application, by mail, by webhook, as the user prefers; `user/created` -> a welcome.

What a user has switched off is left out; mail and webhooks wait for the end of quiet hours; who wants digests gets one mail for all that came within some minutes.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dagster import in_process_executor, job, op

from resources.notifications.preferences import Notifications
from resources.notifications.webhook_sender import WebhookSender
from runyard import Batch, Event, Item, receive, settle
from runyard.clock import now

CHANNELS, IN_APP, QUIET, MAIL, WEBHOOK, RESULT = (
    "choose-channels",
    "show-in-app",
    "quiet-hours",
    "mail",
    "webhook",
    "result",
)
_MAIL = "email/send.requested"


@op
def choose_channels(batch: Batch, notifications: Notifications) -> Batch:
    """How each user is to be told, and from when on."""

    def choose(items: Sequence[Item]) -> list[dict[str, Any]]:
        known = notifications.preferences(sorted({item.data.user for item in items}))
        found: list[dict[str, Any]] = []
        for item in items:
            preferences = known[item.data.user]
            channels, left_out = preferences.channels_for(item.data.kind, item.data.channels)
            quiet = preferences.quiet_end(now()) if set(channels) - {"in-app"} else None
            chosen = {
                "channels": channels,
                "left_out": left_out,
                "quiet_until": quiet.isoformat() if quiet else None,
            }
            found.append(
                {**chosen, **preferences.model_dump(include={"email", "webhook_url", "digest"})}
            )
        return found

    return batch.map_batch(CHANNELS, choose)


@op
def show_in_app(batch: Batch, notifications: Notifications) -> Batch:
    """Show it in the application at once."""

    def show(items: Sequence[Item]) -> list[bool]:
        shown = [item for item in items if "in-app" in item[CHANNELS]["channels"]]
        notifications.tell(
            [
                {
                    "id": item.key,
                    **item.data.model_dump(
                        include={"user", "kind", "title", "message", "action_url"}
                    ),
                }
                for item in shown
            ]
        )
        return ["in-app" in item[CHANNELS]["channels"] for item in items]

    return batch.map_batch(IN_APP, show)


@op
def wait_for_the_morning(batch: Batch) -> Batch:
    """Mail and webhooks wait for the end of quiet hours."""
    return batch.sleep_until(
        QUIET,
        lambda item: (
            datetime.fromisoformat(item[CHANNELS]["quiet_until"])
            if item[CHANNELS]["quiet_until"]
            else now()
        ),
    )


@op
def send_mail(batch: Batch) -> Batch:
    """Ask for a mail, or for a place in the next digest."""

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
    """Post it to the user's own address, signed."""

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
        RESULT, lambda item: {key: item[CHANNELS][key] for key in ("channels", "left_out")}
    )


@job(executor_def=in_process_executor, description="Tell a user something: notification/requested")
def notify_user() -> None:
    """The function's graph."""
    settle(post_webhook(send_mail(wait_for_the_morning(show_in_app(choose_channels(receive()))))))


@op
def send_digest_mail(batch: Batch) -> Batch:
    """One mail for all of a run, which holds what came for one user."""
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
    """Ask for the welcome mail."""
    return batch.send_events("welcome", lambda item: _mail_to_user(item, "welcome"))


@op
def wait_for_return(batch: Batch) -> Batch:
    """The first hour is the first visit; from then on it is a return."""
    batch.sleep("first-visit", "1h")
    return batch.wait_for_event("return", "user/returned", match="data.user", timeout="71h")


@op
def follow_up(batch: Batch) -> Batch:
    """Ask for a second mail to those who have not come back."""
    return batch.send_events(
        "follow-up", lambda item: _mail_to_user(item, "follow_up") if item["return"] is None else []
    )


@job(
    executor_def=in_process_executor,
    description="Welcome a new user, and write again after three days: user/created",
)
def welcome_user() -> None:
    """The function's graph."""
    settle(follow_up(wait_for_return(welcome(receive()))))


def _mail_to_user(item: Item, template: str) -> list[Event]:
    data = item.data.model_dump(include={"name", "product", "action_url"}, exclude_none=True)
    return [Event(_MAIL, {"to": [item.data.email], "template": template, "data": data})]
