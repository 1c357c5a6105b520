"""SendGrid's delivery reports: stored once each, in any order, and the states that follow.

The state of a mail is that of its furthest report, and whether an address is suppressed follows
from all reports about it. So a batch that arrives twice, late or shuffled gives the same result.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any

import psycopg
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from resources.email.addresses import bare

Connection = psycopg.Connection[dict[str, object]]

# In this order: the report that comes last in it determines the state of its mail.
_STATES = {
    "processed": "sent",
    "deferred": "deferred",
    "delivered": "delivered",
    "dropped": "dropped",
    "bounce": "bounced",
    "open": "opened",
    "click": "clicked",
    "group_unsubscribe": "unsubscribed",
    "unsubscribe": "unsubscribed",
    "spamreport": "complained",
}
# A mail server's message has no limit of its own.
_LONGEST_REASON = 2000
_LONGEST_ID = 500
_LONGEST_ADDRESS = 2000
_LATEST = 4_102_444_800  # the year 2100
_NAME = re.compile(r"[a-z_]{1,40}")
_SUPPRESSING = ("bounce", "spamreport", "unsubscribe", "group_unsubscribe", "group_resubscribe")


def _is_short(address: str) -> str:
    """Reject an address that no index can hold: a real one has at most 320 bytes."""
    if len(address.encode()) > _LONGEST_ADDRESS:
        raise ValueError("is too long")
    return address


def _text_or_none(value: Any) -> str | None:
    """A text as it is, a number as text, None for anything else: for fields that are optional."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _in_seconds(value: Any) -> Any:
    """Normalise a time that a relay wrote as text, as ISO 8601 or (after 2100) in milliseconds."""
    if isinstance(value, str):
        value = _of_text(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value / 1000 if is_number and value > _LATEST else value


def _of_text(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _group_or_none(value: Any) -> int | None:
    """The number of an unsubscribe group; a report is usable without it."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**63 else None


Loose = Annotated[str | None, BeforeValidator(_text_or_none)]


class Posted(BaseModel):
    """An element of the array that SendGrid's event webhook posts.

    See SendGrid's reference, Event Webhook; `message_id` is our custom argument.
    """

    model_config = ConfigDict(extra="ignore")

    event: str = Field(min_length=1, max_length=100)
    email: Annotated[str, AfterValidator(_is_short)] = Field(
        max_length=1000, pattern=r"^[^\x00-\x1f\x{fffd}]+@[^\x00-\x1f\x{fffd}]+$"
    )
    timestamp: Annotated[float, Field(ge=0, le=_LATEST), BeforeValidator(_in_seconds)]
    type: Loose = None
    asm_group_id: Annotated[int | None, BeforeValidator(_group_or_none)] = None
    sg_event_id: Loose = None
    sg_message_id: Loose = None
    message_id: Loose = None
    reason: Loose = None
    response: Loose = None


@dataclass(frozen=True)
class Report:
    """One stored report; `kind` is SendGrid's event name, `address` has the form of `bare`."""

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
    def of(cls, element: Any) -> "Report":
        """A report from an element of the array; raises pydantic's ValidationError.

        An element without an id is identified by its content.
        """
        posted = Posted.model_validate(element)
        raw = _as_json(element, posted)
        sent = posted.sg_message_id.partition(".")[0] if posted.sg_message_id else None
        return cls(
            _id(posted, raw),
            posted.event,
            _ours(posted.message_id),
            _ours(sent),
            bare(posted.email),
            datetime.fromtimestamp(posted.timestamp, UTC),
            posted.event == "bounce" and posted.type != "blocked",
            posted.asm_group_id,
            (posted.reason or posted.response or "")[:_LONGEST_REASON] or None,
            raw,
        )


def read_reports(elements: Sequence[Any]) -> tuple[list[Report], list[str]]:
    """The reports of a batch, and for every other element what is missing or wrong.

    Such an element is not about an address, or is of a kind that SendGrid added later.
    """
    reports: list[Report] = []
    not_understood: list[str] = []
    for element in elements:
        try:
            reports.append(Report.of(element))
        except ValidationError as error:
            fields = {
                str(problem["loc"][0])
                for problem in error.errors(include_url=False, include_input=False)
                if problem["loc"]
            }
            not_understood.append(f"{_kind(element)} ({', '.join(sorted(fields)) or 'no object'})")
        except (ArithmeticError, RecursionError) as error:
            not_understood.append(f"{_kind(element)} ({type(error).__name__})")
    return reports, not_understood


def _kind(element: Any) -> str:
    """The kind of an element, where it has one that looks like a name."""
    name = element.get("event") if isinstance(element, dict) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else "an element"


def _as_json(element: Any, posted: Posted) -> str:
    """An element as it arrived; where JSON cannot represent it, its parsed fields."""
    try:
        return json.dumps(element, sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError):
        return posted.model_dump_json()


def _id(posted: Posted, raw: str) -> str:
    """SendGrid's id of a report, which identifies repeats; a long one is replaced by its hash."""
    report_id = posted.sg_event_id or raw
    if posted.sg_event_id and len(report_id) <= _LONGEST_ID:
        return report_id
    return sha256(report_id.encode()).hexdigest()


def _ours(message_id: str | None) -> str | None:
    """An id of a mail; None for one that is too long to be ours or SendGrid's."""
    return message_id if message_id and len(message_id) <= _LONGEST_ID else None


def save_reports(connection: Connection, reports: Sequence[Report]) -> list[Report]:
    """Store reports and update mails and suppressions; return the reports that were new.

    Part of the caller's transaction.
    """
    # Sorted by id, so that two requests with the same reports wait for each other, not deadlock.
    by_id = {report.id: report for report in sorted(reports, key=lambda report: report.id)}
    new = [by_id[row_id] for row_id in _insert(connection, list(by_id.values()))]
    _update_messages(connection, [report.id for report in new])
    _update_suppressions(
        connection, sorted({report.address for report in new if report.kind in _SUPPRESSING})
    )
    return new


def _insert(connection: Connection, reports: Sequence[Report]) -> list[str]:
    # by email_reports_pkey, email_messages_pkey and email_messages_provider
    statement = """
        INSERT INTO app.email_reports (id, kind, message_id, provider_message_id, address, at,
            hard, group_id, reason, report)
        SELECT posted.id, kind, coalesce(
                (SELECT email_messages.id FROM app.email_messages
                    WHERE email_messages.id = posted.message_id),
                (SELECT min(email_messages.id) FROM app.email_messages
                    WHERE email_messages.provider_message_id = posted.provider_message_id)),
            posted.provider_message_id, address, at, hard, group_id, reason, report
        FROM jsonb_to_recordset(%s::jsonb) AS posted (id text, kind text, message_id text,
            provider_message_id text, address text, at timestamptz, hard boolean,
            group_id bigint, reason text, report jsonb)
        ON CONFLICT (id) DO NOTHING RETURNING id"""
    rows = [
        {
            "id": report.id,
            "kind": report.kind,
            "message_id": report.message_id,
            "provider_message_id": report.provider_message_id,
            "address": report.address,
            "at": report.at.isoformat(),
            "hard": report.hard,
            "group_id": report.group_id,
            "reason": report.reason,
            "report": json.loads(report.raw),
        }
        for report in reports
    ]
    return [str(row["id"]) for row in connection.execute(statement, (json.dumps(rows),)).fetchall()]


def _update_messages(connection: Connection, ids: Sequence[str]) -> None:
    """Set the state of every mail with new reports to that of its furthest report."""
    # by email_reports_pkey, email_reports_message and email_messages_pkey
    statement = """
        WITH touched AS (
            SELECT email_messages.id FROM app.email_messages
            WHERE email_messages.id IN (
                SELECT message_id FROM app.email_reports WHERE email_reports.id = ANY (%(ids)s))
            ORDER BY email_messages.id FOR UPDATE
        ),
        furthest AS (
            SELECT DISTINCT ON (touched.id) touched.id,
                (%(states)s::text[])[rank.number] AS status, reason
            FROM touched JOIN app.email_reports ON email_reports.message_id = touched.id
            JOIN unnest(%(kinds)s::text[]) WITH ORDINALITY AS rank (kind, number)
                ON rank.kind = email_reports.kind
            ORDER BY touched.id, rank.number DESC, at DESC, email_reports.id
        )
        UPDATE app.email_messages SET status = furthest.status, updated_at = now(),
            error = CASE WHEN furthest.status IN ('deferred', 'dropped', 'bounced')
                THEN furthest.reason END
        FROM furthest WHERE email_messages.id = furthest.id"""
    connection.execute(
        statement, {"ids": list(ids), "kinds": list(_STATES), "states": list(_STATES.values())}
    )


def _update_suppressions(connection: Connection, addresses: Sequence[str]) -> None:
    """Suppress addresses, or lift that, by all reports about them; manual entries stay."""
    # by email_reports_address and suppressions_pkey
    statement = """
        WITH suppressed AS (
            SELECT DISTINCT ON (address) address, reason FROM (
                SELECT address, 'spam report' AS reason, 1 AS rank FROM app.email_reports
                WHERE address = ANY (%(addresses)s) AND kind = 'spamreport'
                UNION ALL
                SELECT address, 'hard bounce', 2 FROM app.email_reports
                WHERE address = ANY (%(addresses)s) AND kind = 'bounce' AND hard
                UNION ALL
                SELECT address, 'unsubscribed', 3 FROM app.email_reports
                WHERE address = ANY (%(addresses)s) AND kind = 'unsubscribe'
                UNION ALL
                SELECT address, 'unsubscribed', 3 FROM (
                    SELECT DISTINCT ON (address, group_id) address, kind FROM app.email_reports
                    WHERE address = ANY (%(addresses)s)
                        AND kind IN ('group_unsubscribe', 'group_resubscribe')
                    ORDER BY address, group_id, at DESC, id
                ) AS latest WHERE kind = 'group_unsubscribe'
            ) AS reported ORDER BY address, rank
        ),
        saved AS (
            INSERT INTO app.suppressions (address, reason, source)
            SELECT address, reason, 'reports' FROM suppressed
            ON CONFLICT (address) DO UPDATE SET reason = excluded.reason
                WHERE suppressions.source = 'reports'
        )
        DELETE FROM app.suppressions
        WHERE address = ANY (%(addresses)s) AND source = 'reports'
            AND address NOT IN (SELECT address FROM suppressed)"""
    connection.execute(statement, {"addresses": list(addresses)})
