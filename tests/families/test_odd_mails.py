"""Subjects with Unicode's line breaks, and reports about an address too long for an index."""

import random
import time
from typing import Any

import pytest

from pipelines.http_extensions import sendgrid_reports
from runyard.errors import InvalidEvent
from runyard.gateway.api.extensions import WebhookRequest
from runyard.store import database
from runyard.testing import Yard
from tests.tables import rows


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"])
def test_a_line_break_of_unicode_in_a_subject_is_refused(yard: Yard, sign: str) -> None:
    with pytest.raises(InvalidEvent, match="must be one line"):
        yard.send(
            "email/send.requested", {"to": ["ada@example.com"], "subject": f"a{sign}b", "text": "t"}
        )


def test_an_address_that_is_too_long_loses_no_other_report(yard: Yard) -> None:
    name = "".join(random.Random(1).choices([chr(code) for code in range(0x4E00, 0x9FFF)], k=950))
    posted: list[dict[str, Any]] = [
        {"event": "bounce", "email": f"{who}@example.com", "timestamp": int(time.time())}
        for who in ("ada", name)
    ]
    with database.connection() as connection, connection.transaction():
        taken = sendgrid_reports(WebhookRequest(posted, {}, connection))
    assert taken.not_understood == ["bounce (email)"]
    assert [row["address"] for row in rows("SELECT address FROM app.suppressions")] == [
        "ada@example.com"
    ]
