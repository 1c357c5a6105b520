"""What came through the contact form, and whether it looks like spam."""

import re
from typing import Any, cast

from dagster import ConfigurableResource

from runyard.store import database

MOST_LINKS = 3
MOST_AN_HOUR = 5
_LINK = re.compile(r"https?://|www\.|\[url", re.IGNORECASE)


class ContactMessages(ConfigurableResource[Any]):
    """Reads and writes `app.contact_messages`."""

    def keep(self, message_id: str, event_id: str, data: Any) -> list[str]:
        """Keep a message, once, and return why it looks like spam: nothing for one that does not."""
        reasons = suspicions(data.message, data.website)
        with database.transaction() as connection:
            # One address at a time, so that those which come together count each other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 8290))", (data.email.lower(),))
            # by contact_messages_pkey
            known = connection.execute("SELECT reasons FROM app.contact_messages WHERE id = %s", (message_id,)).fetchone()
            if known is not None:
                return cast(list[str], known["reasons"])
            # by contact_messages_email
            row = connection.execute(
                "SELECT count(*) AS n FROM app.contact_messages WHERE email = %s AND created_at > runyard.now() - interval '1 hour'", (data.email.lower(),)
            ).fetchone()
            if row is not None and int(str(row["n"])) >= MOST_AN_HOUR:
                reasons.append(f"more than {MOST_AN_HOUR} messages within an hour from this address")
            connection.execute(
                "INSERT INTO app.contact_messages (id, event_id, name, email, message, page, reasons, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, runyard.now())",
                (message_id, event_id, data.name, data.email.lower(), data.message, data.page, reasons),
            )
        return reasons


def suspicions(message: str, honeypot: str) -> list[str]:
    """Why the words of a message look like spam."""
    links = len(_LINK.findall(message))
    found = ["the field that people do not see was filled in"] if honeypot else []
    return [*found, f"{links} links"] if links > MOST_LINKS else found
