"""What SendGrid reports of mails: kept once each, in any order, and the states that follow from all of them.

The state of a mail is that of its furthest report, the suppression of an address what all its reports say together: so a batch that comes twice,
late or shuffled ends in the same state.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import psycopg
from pydantic import BaseModel, ConfigDict, Field

Connection = psycopg.Connection[dict[str, object]]

# By its rank the furthest report makes the state of its mail.
_STATES = {
    "processed": "sent", "deferred": "deferred", "delivered": "delivered", "dropped": "dropped", "bounce": "bounced", "open": "opened", "click": "clicked",
    "group_unsubscribe": "unsubscribed", "unsubscribe": "unsubscribed", "spamreport": "complained",
}  # fmt: skip
# What a mail server says has no length of its own.
_LONGEST_REASON = 2000
_SUPPRESSING = ("bounce", "spamreport", "unsubscribe", "group_unsubscribe", "group_resubscribe")


class Posted(BaseModel):
    """An element of the array that SendGrid's event webhook posts (SendGrid's reference, Event Webhook); `message_id` is our custom argument."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    event: str = Field(max_length=100)
    email: str = Field(max_length=1000)
    timestamp: float = Field(ge=0, le=4_102_444_800)
    sg_event_id: str | None = Field(default=None, max_length=512)
    sg_message_id: str | None = Field(default=None, max_length=512)
    message_id: str | None = Field(default=None, max_length=512)
    type: str | None = Field(default=None, max_length=100)
    reason: str | None = None
    response: str | None = None
    asm_group_id: int | None = Field(default=None, ge=0, lt=2**63)


@dataclass(frozen=True)
class Report:
    """One report as it is kept. `kind` is SendGrid's name of the event, `address` in lower case."""

    id: str
    kind: str
    message_id: str | None
    provider_message_id: str | None
    address: str
    at: datetime
    hard: bool
    group_id: int | None
    reason: str | None
    raw: str

    @classmethod
    def of(cls, given: Any) -> "Report":
        """A report of an element of the array; raises pydantic's ValidationError. One without an id is known by its content."""
        posted = Posted.model_validate(given)
        raw = json.dumps(given, sort_keys=True)
        return cls(
            posted.sg_event_id or sha256(raw.encode()).hexdigest(), posted.event, posted.message_id,
            posted.sg_message_id.partition(".")[0] if posted.sg_message_id else None, posted.email.strip().lower(), datetime.fromtimestamp(posted.timestamp, UTC),
            posted.event == "bounce" and posted.type != "blocked", posted.asm_group_id, (posted.reason or posted.response or "")[:_LONGEST_REASON] or None, raw,
        )  # fmt: skip


def keep_reports(connection: Connection, reports: Sequence[Report]) -> list[Report]:
    """Keep reports, and bring mails and suppressed addresses up to what all reports say; return those that were new. Part of the caller's transaction."""
    # In the order of their ids, so that two requests with the same reports wait for each other rather than lock each other out.
    by_id = {report.id: report for report in sorted(reports, key=lambda report: report.id)}
    new = [by_id[row_id] for row_id in _insert(connection, list(by_id.values()))]
    _update_messages(connection, [report.id for report in new])
    _update_suppressions(connection, sorted({report.address for report in new if report.kind in _SUPPRESSING}))
    return new


def _insert(connection: Connection, reports: Sequence[Report]) -> list[str]:
    # by email_reports_pkey, email_messages_pkey and email_messages_provider
    statement = """
        INSERT INTO app.email_reports (id, kind, message_id, provider_message_id, address, at, hard, group_id, reason, report)
        SELECT posted.id, kind, coalesce(
                (SELECT email_messages.id FROM app.email_messages WHERE email_messages.id = posted.message_id),
                (SELECT min(email_messages.id) FROM app.email_messages WHERE email_messages.provider_message_id = posted.provider_message_id)),
            posted.provider_message_id, address, at, hard, group_id, reason, report
        FROM jsonb_to_recordset(%s::jsonb) AS posted (id text, kind text, message_id text, provider_message_id text, address text, at timestamptz, hard boolean,
            group_id bigint, reason text, report jsonb)
        ON CONFLICT (id) DO NOTHING RETURNING id"""
    rows = [
        {
            "id": report.id, "kind": report.kind, "message_id": report.message_id, "provider_message_id": report.provider_message_id, "address": report.address,
            "at": report.at.isoformat(), "hard": report.hard, "group_id": report.group_id, "reason": report.reason, "report": json.loads(report.raw),
        }
        for report in reports
    ]  # fmt: skip
    return [str(row["id"]) for row in connection.execute(statement, (json.dumps(rows),)).fetchall()]


def _update_messages(connection: Connection, ids: Sequence[str]) -> None:
    """The state of every mail that new reports are about: that of its furthest report."""
    # by email_reports_pkey, email_reports_message and email_messages_pkey
    statement = """
        WITH touched AS (
            SELECT email_messages.id FROM app.email_messages
            WHERE email_messages.id IN (SELECT message_id FROM app.email_reports WHERE email_reports.id = ANY (%(ids)s)) ORDER BY email_messages.id FOR UPDATE
        ),
        furthest AS (
            SELECT DISTINCT ON (touched.id) touched.id, (%(states)s::text[])[rank.number] AS status, reason
            FROM touched JOIN app.email_reports ON email_reports.message_id = touched.id
            JOIN unnest(%(kinds)s::text[]) WITH ORDINALITY AS rank (kind, number) ON rank.kind = email_reports.kind
            ORDER BY touched.id, rank.number DESC, at DESC, email_reports.id
        )
        UPDATE app.email_messages SET status = furthest.status, updated_at = now(),
            error = CASE WHEN furthest.status IN ('deferred', 'dropped', 'bounced') THEN furthest.reason END
        FROM furthest WHERE email_messages.id = furthest.id"""
    connection.execute(statement, {"ids": list(ids), "kinds": list(_STATES), "states": list(_STATES.values())})


def _update_suppressions(connection: Connection, addresses: Sequence[str]) -> None:
    """Suppress addresses, or take it back, by all that was reported of them; what somebody has written by hand stays."""
    # by email_reports_address and suppressions_pkey
    wanted = """
        SELECT DISTINCT ON (address) address, reason FROM (
            SELECT address, 'spam report' AS reason, 1 AS rank FROM app.email_reports WHERE address = ANY (%(addresses)s) AND kind = 'spamreport'
            UNION ALL
            SELECT address, 'hard bounce', 2 FROM app.email_reports WHERE address = ANY (%(addresses)s) AND kind = 'bounce' AND hard
            UNION ALL
            SELECT address, 'unsubscribed', 3 FROM app.email_reports WHERE address = ANY (%(addresses)s) AND kind = 'unsubscribe'
            UNION ALL
            SELECT address, 'unsubscribed', 3 FROM (
                SELECT DISTINCT ON (address, group_id) address, kind FROM app.email_reports
                WHERE address = ANY (%(addresses)s) AND kind IN ('group_unsubscribe', 'group_resubscribe') ORDER BY address, group_id, at DESC, id
            ) AS latest WHERE kind = 'group_unsubscribe'
        ) AS said ORDER BY address, rank"""
    statement = f"""
        WITH wanted AS ({wanted}),
        kept AS (
            INSERT INTO app.suppressions (address, reason, source) SELECT address, reason, 'reports' FROM wanted
            ON CONFLICT (address) DO UPDATE SET reason = excluded.reason WHERE suppressions.source = 'reports'
        )
        DELETE FROM app.suppressions
        WHERE address = ANY (%(addresses)s) AND source = 'reports' AND address NOT IN (SELECT address FROM wanted)"""  # noqa: S608 (no value is in the text)
    connection.execute(statement.encode(), {"addresses": list(addresses)})
