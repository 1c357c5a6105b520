"""The mail family's tables: the state of every message, and the suppressed addresses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dagster import ConfigurableResource

from resources.email.addresses import bare, forms
from runyard.store import database


@dataclass(frozen=True)
class Message:
    """A message as it is recorded before it is sent; `status` is queued or suppressed."""

    id: str
    event_id: str
    recipients: list[str]
    subject: str
    template: str | None
    status: str


class EmailMessages(ConfigurableResource[Any]):
    """Reads and writes `app.email_messages` and `app.suppressions`, many rows a statement."""

    def record(self, messages: Sequence[Message]) -> None:
        """Record messages before they are sent; those that exist already are left alone."""
        with database.connection() as connection, connection.cursor() as cursor:
            # by email_messages_pkey
            cursor.executemany(
                """
                INSERT INTO app.email_messages (id, event_id, recipients, subject, template, status)
                VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING""",
                [
                    (
                        message.id,
                        message.event_id,
                        message.recipients,
                        message.subject,
                        message.template,
                        message.status,
                    )
                    for message in messages
                ],
            )

    def mark_sent(self, sent: Sequence[tuple[str, str, str]]) -> None:
        """Record (id, provider, provider's id) of sent messages; a report's status is kept."""
        ids, providers, provider_ids = (
            (list(column) for column in zip(*sent, strict=True)) if sent else ([], [], [])
        )
        with database.connection() as connection:
            # by email_messages_pkey
            connection.execute(
                """
                UPDATE app.email_messages SET provider = sent.provider,
                    provider_message_id = sent.provider_id,
                    sent_at = coalesce(sent_at, now()), updated_at = now(), error = NULL,
                    status = CASE WHEN status IN ('queued', 'failed') THEN 'sent' ELSE status END
                FROM unnest(%s::text[], %s::text[], %s::text[]) AS sent (id, provider, provider_id)
                WHERE email_messages.id = sent.id""",
                (ids, providers, provider_ids),
            )

    def mark_failed(self, message_id: str, error: str) -> None:
        """Record that a message will not be sent, and why."""
        with database.connection() as connection:
            # by email_messages_pkey
            connection.execute(
                "UPDATE app.email_messages SET status = 'failed', error = %s, updated_at = now()"
                " WHERE id = %s",
                (error, message_id),
            )

    def suppressed(self, addresses: Iterable[str]) -> set[str]:
        """Which of these addresses (with or without names) must not be mailed, as `bare` forms."""
        # Manual entries may have the domain in its other form.
        written = list({form for address in addresses for form in forms(address)})
        with database.connection() as connection:
            # by suppressions_pkey
            rows = connection.execute(
                "SELECT address FROM app.suppressions WHERE address = ANY (%s)"
                " AND (expires_at IS NULL OR expires_at > runyard.now())",
                (written,),
            ).fetchall()
        return {bare(str(row["address"])) for row in rows}

    def suppress(self, address: str, reason: str, until: datetime | None = None) -> None:
        """Suppress an address, for good or until a time."""
        with database.connection() as connection:
            # by suppressions_pkey
            connection.execute(
                "INSERT INTO app.suppressions (address, reason, expires_at) VALUES (%s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (bare(address), reason, until),
            )

    def end_suppressions(self, *, dry_run: bool = False) -> int:
        """Delete expired suppressions, or only count them; return how many."""
        over = "FROM app.suppressions WHERE expires_at <= runyard.now()"
        count = f"SELECT count(*) AS n {over}"
        delete = f"WITH deleted AS (DELETE {over} RETURNING 1) SELECT count(*) AS n FROM deleted"  # noqa: S608 (ours)
        with database.connection() as connection:
            # (a full scan, once a day)
            row = connection.execute((count if dry_run else delete).encode()).fetchone()
        return int(str(row["n"])) if row else 0
