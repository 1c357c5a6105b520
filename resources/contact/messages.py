"""What came through the contact form, whether it looks like spam, and whether its sender is told that it has come."""

import os
import re
from typing import Any

from dagster import ConfigurableResource

from resources.email.addresses import bare
from runyard.errors import NonRetriable
from runyard.store import database

MOST_LINKS = 3
MOST_AN_HOUR = 5
MOST_ACKNOWLEDGED_AN_HOUR = 60
_LINK = re.compile(r"https?://|www\.|\[url", re.IGNORECASE)
# Where dots in an address mean nothing.
_DOTLESS = ("gmail.com", "googlemail.com")


class ContactMessages(ConfigurableResource[Any]):
    """Reads and writes `app.contact_messages`."""

    def keep(self, message_id: str, event_id: str, data: Any) -> dict[str, Any]:
        """Keep a message, once, and say what follows from it.

        `spam` is why it looks like spam: nothing for one that does not. `unacknowledged` is why its sender is not told that it has come, None for one who is told.
        """
        reasons, limit = suspicions(data.message, data.website), acknowledgements_an_hour()
        box = mailbox(data.email)
        with database.transaction() as connection:
            # One mailbox at a time, so that those which come together count each other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 8290))", (box,))
            # by contact_messages_pkey
            known = connection.execute(
                "SELECT reasons, acknowledged FROM app.contact_messages WHERE id = %s",
                (message_id,),
            ).fetchone()
            if known is not None:
                return _follows(known["reasons"], bool(known["acknowledged"]), limit)
            # by contact_messages_mailbox and contact_messages_acknowledged; messages of other mailboxes that come at this moment are not counted: some more may be told
            row = connection.execute(
                "SELECT (SELECT count(*) FROM app.contact_messages WHERE mailbox = %s AND created_at > runyard.now() - interval '1 hour') AS mine,"
                " (SELECT count(*) FROM app.contact_messages WHERE acknowledged AND created_at > runyard.now() - interval '1 hour') AS told",
                (box,),
            ).fetchone()
            assert row is not None
            if int(str(row["mine"])) >= MOST_AN_HOUR:
                reasons.append(
                    f"more than {MOST_AN_HOUR} messages within an hour from this address"
                )
            acknowledged = not reasons and int(str(row["told"])) < limit
            connection.execute(
                "INSERT INTO app.contact_messages (id, event_id, name, email, mailbox, message, page, reasons, acknowledged, created_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, runyard.now())",
                (
                    message_id,
                    event_id,
                    data.name,
                    data.email.lower(),
                    box,
                    data.message,
                    data.page,
                    reasons,
                    acknowledged,
                ),
            )
        return _follows(reasons, acknowledged, limit)


def acknowledgements_an_hour() -> int:
    """How many senders are told within an hour that their message has come (CONTACT_ACKNOWLEDGEMENTS, 0: none); raises `NonRetriable` for what is no number."""
    given = os.environ.get("CONTACT_ACKNOWLEDGEMENTS") or str(MOST_ACKNOWLEDGED_AN_HOUR)
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise NonRetriable(
            "CONTACT_ACKNOWLEDGEMENTS is no whole number: set how many acknowledgements an hour may see"
        )
    return int(given)


def mailbox(address: str) -> str:
    """The mailbox behind an address: what its owner may choose freely is left out (name, case, `+tag`, dots where they mean nothing)."""
    local, _, domain = bare(address).rpartition("@")
    local = local.partition("+")[0] or local
    return f"{local.replace('.', '') if domain in _DOTLESS else local}@{domain}"


def suspicions(message: str, honeypot: str) -> list[str]:
    """Why the words of a message look like spam."""
    links = len(_LINK.findall(message))
    found = ["the field that people do not see was filled in"] if honeypot else []
    return [*found, f"{links} links"] if links > MOST_LINKS else found


def _follows(reasons: Any, acknowledged: bool, limit: int) -> dict[str, Any]:
    why = (
        None
        if acknowledged
        else "it looks like spam"
        if reasons
        else f"more than {limit} acknowledgements within an hour (CONTACT_ACKNOWLEDGEMENTS)"
    )
    return {"spam": list(reasons), "unacknowledged": why}
