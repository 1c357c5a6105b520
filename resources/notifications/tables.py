"""Notifications and users' preferences for them: channels, muted kinds, quiet hours, digests."""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from dagster import ConfigurableResource
from pydantic import BaseModel

from runyard.store import database

Channel = Literal["in-app", "mail", "webhook"]
_DEFAULTS: list[Channel] = ["in-app", "mail"]


class Preferences(BaseModel):
    """A user's preferences.

    Quiet hours are in the user's time zone and may cross midnight; mail and webhooks wait for
    their end.
    """

    user_id: str
    email: str | None = None
    webhook_url: str | None = None
    channels: list[Channel] = _DEFAULTS
    muted: list[str] = []
    quiet_from: time | None = None
    quiet_until: time | None = None
    timezone: str = "UTC"
    digest: bool = False

    def channels_for(
        self, kind: str, requested: Sequence[Channel] | None
    ) -> tuple[list[Channel], list[str]]:
        """The channels for a notification of this kind, and why others are dropped."""
        chosen: list[Channel] = []
        dropped: list[str] = []
        if kind in self.muted:
            return [], [f"{self.user_id} has muted {kind}"]
        for channel in requested or self.channels:
            if channel not in self.channels:
                dropped.append(f"{channel}: switched off by {self.user_id}")
            elif (channel == "mail" and not self.email) or (
                channel == "webhook" and not self.webhook_url
            ):
                dropped.append(f"{channel}: no address is known")
            else:
                chosen.append(channel)
        return chosen, dropped

    def quiet_end(self, now: datetime) -> datetime | None:
        """The end of the quiet hours that `now` (with a time zone) is in; None outside of them."""
        start, end, zone = self.quiet_from, self.quiet_until, ZoneInfo(self.timezone)
        if start is None or end is None or start == end:
            return None
        local = now.astimezone(zone)
        clock = local.time().replace(tzinfo=None)
        has_started, has_ended = clock >= start, clock >= end
        overnight = start > end
        if overnight and has_started:
            return datetime.combine(local.date() + timedelta(days=1), end, zone)
        is_quiet = not has_ended if overnight else has_started and not has_ended
        return datetime.combine(local.date(), end, zone) if is_quiet else None


class Notifications(ConfigurableResource[Any]):
    """Reads `app.notification_preferences`, writes `app.notifications`."""

    def preferences(self, users: Sequence[str]) -> dict[str, Preferences]:
        """The preferences of these users; defaults for those who have set none."""
        with database.connection() as connection:
            # by notification_preferences_pkey
            rows = connection.execute(
                "SELECT * FROM app.notification_preferences WHERE user_id = ANY (%s)",
                (list(users),),
            ).fetchall()
        stored = {str(row["user_id"]): Preferences.model_validate(row) for row in rows}
        return {user: stored.get(user) or Preferences(user_id=user) for user in users}

    def save(self, preferences: Preferences) -> None:
        """Save a user's preferences."""
        with database.connection() as connection:
            # by notification_preferences_pkey
            connection.execute(
                """
                INSERT INTO app.notification_preferences (user_id, email, webhook_url, channels,
                    muted, quiet_from, quiet_until, timezone, digest)
                VALUES (%(user_id)s, %(email)s, %(webhook_url)s, %(channels)s, %(muted)s,
                    %(quiet_from)s, %(quiet_until)s, %(timezone)s, %(digest)s)
                ON CONFLICT (user_id) DO UPDATE SET email = excluded.email,
                    webhook_url = excluded.webhook_url, channels = excluded.channels,
                    muted = excluded.muted, quiet_from = excluded.quiet_from,
                    quiet_until = excluded.quiet_until, timezone = excluded.timezone,
                    digest = excluded.digest""",
                preferences.model_dump(),
            )

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Show notifications (id, user, kind, title, message, action_url) in the application.

        An id that exists already changes nothing.
        """
        with database.connection() as connection, connection.cursor() as cursor:
            # by notifications_pkey
            cursor.executemany(
                """
                INSERT INTO app.notifications (id, user_id, kind, title, message, action_url,
                    created_at)
                VALUES (%(id)s, %(user)s, %(kind)s, %(title)s, %(message)s, %(action_url)s,
                    runyard.now())
                ON CONFLICT (id) DO NOTHING""",
                rows,
            )
