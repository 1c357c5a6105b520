"""Messages of the contact form: whether they look like spam, and whether they are acknowledged."""

import re
from typing import Any

import psycopg
from dagster import ConfigurableResource

from resources.email.addresses import bare
from resources.settings import ContactSettings
from runyard.store import database

Connection = psycopg.Connection[dict[str, object]]

MOST_LINKS = 3
MOST_AN_HOUR = 5
_LINK = re.compile(r"https?://|www\.|\[url", re.IGNORECASE)
# Domains where dots before the @ have no meaning.
_DOTLESS = ("gmail.com", "googlemail.com")


class ContactMessages(ConfigurableResource[Any]):
    """Reads and writes `app.contact_messages`."""

    def save(self, message_id: str, event_id: str, data: Any) -> dict[str, Any]:
        """Save a message, once, and return what follows from it.

        `spam` lists why it looks like spam (empty where it does not). `unacknowledged` is why its
        sender gets no acknowledgement; None for one who gets it.
        """
        limit = ContactSettings.read().contact_acknowledgements
        reasons = suspicions(data.message, data.website)
        box = mailbox(data.email)
        with database.transaction() as connection:
            # One message of a mailbox at a time, so that concurrent ones count each other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 8290))", (box,))
            # by contact_messages_pkey
            known = connection.execute(
                "SELECT reasons, acknowledged FROM app.contact_messages WHERE id = %s",
                (message_id,),
            ).fetchone()
            if known is not None:
                return _result(known["reasons"], bool(known["acknowledged"]), limit)
            same_mailbox, acknowledged_count = _count_last_hour(connection, box)
            if same_mailbox >= MOST_AN_HOUR:
                reasons.append(
                    f"more than {MOST_AN_HOUR} messages within an hour from this address"
                )
            acknowledged = not reasons and acknowledged_count < limit
            connection.execute(
                """
                INSERT INTO app.contact_messages (id, event_id, name, email, mailbox, message, page,
                    reasons, acknowledged, created_at)
                VALUES (%(id)s, %(event_id)s, %(name)s, %(email)s, %(mailbox)s, %(message)s,
                    %(page)s, %(reasons)s, %(acknowledged)s, runyard.now())""",
                {
                    "id": message_id,
                    "event_id": event_id,
                    "name": data.name,
                    "email": data.email.lower(),
                    "mailbox": box,
                    "message": data.message,
                    "page": data.page,
                    "reasons": reasons,
                    "acknowledged": acknowledged,
                },
            )
        return _result(reasons, acknowledged, limit)


def mailbox(address: str) -> str:
    """The mailbox behind an address, without what its owner may vary freely.

    That is the name, upper and lower case, a `+tag`, and dots where they have no meaning.
    """
    local, _, domain = bare(address).rpartition("@")
    local = local.partition("+")[0] or local
    return f"{local.replace('.', '') if domain in _DOTLESS else local}@{domain}"


def suspicions(message: str, honeypot: str) -> list[str]:
    """Why the text of a message looks like spam."""
    links = len(_LINK.findall(message))
    reasons = ["the field that people do not see was filled in"] if honeypot else []
    return [*reasons, f"{links} links"] if links > MOST_LINKS else reasons


def _count_last_hour(connection: Connection, box: str) -> tuple[int, int]:
    """Messages of this mailbox, and acknowledged messages of all, within the last hour.

    Concurrent messages of other mailboxes are not counted, so a few more may be acknowledged.
    """
    # by contact_messages_mailbox and contact_messages_acknowledged
    row = connection.execute(
        """
        SELECT (
            SELECT count(*) FROM app.contact_messages
            WHERE mailbox = %s AND created_at > runyard.now() - interval '1 hour'
        ) AS same_mailbox, (
            SELECT count(*) FROM app.contact_messages
            WHERE acknowledged AND created_at > runyard.now() - interval '1 hour'
        ) AS acknowledged""",
        (box,),
    ).fetchone()
    assert row is not None
    return int(str(row["same_mailbox"])), int(str(row["acknowledged"]))


def _result(reasons: Any, acknowledged: bool, limit: int) -> dict[str, Any]:
    if acknowledged:
        why_not = None
    elif reasons:
        why_not = "it looks like spam"
    else:
        why_not = f"more than {limit} acknowledgements within an hour (CONTACT_ACKNOWLEDGEMENTS)"
    return {"spam": list(reasons), "unacknowledged": why_not}
