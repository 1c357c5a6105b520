"""What SendGrid reports of mails: kept once each, in any order, and the states that follow from all of them.

The state of a mail is that of its furthest report, the suppression of an address what all its reports say together: so a batch that comes twice,
late or shuffled ends in the same state.
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

# By its rank the furthest report makes the state of its mail.
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
# What a mail server says has no length of its own.
_LONGEST_REASON = 2000
_LONGEST_ID = 500
_LONGEST_ADDRESS = 2000
_LATEST = 4_102_444_800  # the year 2100
_NAME = re.compile(r"[a-z_]{1,40}")
_SUPPRESSING = ("bounce", "spamreport", "unsubscribe", "group_unsubscribe", "group_resubscribe")


def _is_short(address: str) -> str:
    """Refuse what no index holds: a real address has 320 bytes at most."""
    if len(address.encode()) > _LONGEST_ADDRESS:
        raise ValueError("is too long")
    return address


def _text_or_none(value: Any) -> str | None:
    """A text as it is, a number as text, of anything else nothing: for what a report is understood without."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _in_seconds(value: Any) -> Any:
    """A time as some relays write it: as text, as ISO 8601, or (behind the year 2100) in milliseconds."""
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
    """The number of an unsubscribe group; a report says what it says without it too."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**63 else None


Loose = Annotated[str | None, BeforeValidator(_text_or_none)]


class Posted(BaseModel):
    """An element of the array that SendGrid's event webhook posts (SendGrid's reference, Event Webhook); `message_id` is our custom argument."""

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
    """One report as it is kept. `kind` is SendGrid's name of the event, `address` in the form of `bare`."""

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
        raw = _as_json(given, posted)
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
    """The reports of a batch, and of each element that is none what is missing or wrong: it says nothing of an address, or is of a kind that came later."""
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
    found = element.get("event") if isinstance(element, dict) else None
    return found if isinstance(found, str) and _NAME.fullmatch(found) else "an element"


def _as_json(given: Any, posted: Posted) -> str:
    """An element as it came; where JSON cannot hold it, what was understood of it."""
    try:
        return json.dumps(given, sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError):
        return posted.model_dump_json()


def _id(posted: Posted, raw: str) -> str:
    """SendGrid's id of a report, by which a repeat is known; a long one is as good as its hash."""
    given = posted.sg_event_id or raw
    if posted.sg_event_id and len(given) <= _LONGEST_ID:
        return given
    return sha256(given.encode()).hexdigest()


def _ours(message_id: str | None) -> str | None:
    """An id of a mail; one that is longer than any of ours and SendGrid's is of neither."""
    return message_id if message_id and len(message_id) <= _LONGEST_ID else None


def keep_reports(connection: Connection, reports: Sequence[Report]) -> list[Report]:
    """Keep reports, and bring mails and suppressed addresses up to what all reports say; return those that were new. Part of the caller's transaction."""
    # In the order of their ids, so that two requests with the same reports wait for each other rather than lock each other out.
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
    connection.execute(
        statement, {"ids": list(ids), "kinds": list(_STATES), "states": list(_STATES.values())}
    )


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
