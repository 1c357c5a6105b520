"""The mail family against a SendGrid that checks and fails."""

import time
from typing import Any

import pytest

from resources.email_messages import EmailMessages
from resources.sendgrid_client import SendGridAccount
from runyard import Event, send
from runyard.store import database
from runyard.store.queries import Row
from runyard.testing import Yard
from tests.conftest import event
from tests.fake_sendgrid import FakeSendGrid

NAME = "email/send.requested"


@pytest.fixture(autouse=True)
def fresh(sendgrid: FakeSendGrid) -> None:
    """No mails, no failures to come, no pause from an earlier test."""
    sendgrid.mails.clear()
    sendgrid.failures.clear()
    SendGridAccount.get.cache_clear()


def welcome(address: str, **more: Any) -> dict[str, Any]:
    return {"to": [address], "template": "welcome", "data": {"name": "Ada"}, **more}


def messages() -> list[Row]:
    with database.connection() as connection:
        return list(connection.execute("SELECT * FROM app.email_messages ORDER BY id").fetchall())


def outcome(event_id: str) -> dict[str, Any]:
    return event(event_id)["invocations"][0]


def test_a_mail_is_rendered_sent_and_recorded(yard: Yard, sendgrid: FakeSendGrid) -> None:
    [event_id] = send(NAME, welcome("Ada <ada@example.com>", cc=["c@example.com"], reply_to="help@example.com"))
    yard.work()
    [mail] = sendgrid.mails
    assert mail["personalizations"][0]["to"] == [{"email": "ada@example.com", "name": "Ada"}]
    assert mail["personalizations"][0]["cc"] == [{"email": "c@example.com"}] and mail["reply_to"] == {"email": "help@example.com"}
    assert mail["subject"] == "Welcome, Ada" and mail["from"] == {"email": "r@example.com", "name": "R"}
    [row] = messages()
    assert (row["status"], row["provider"], row["event_id"]) == ("sent", "sendgrid", event_id)
    assert row["provider_message_id"] == outcome(event_id)["output"]["message_id"]


def test_many_mails_go_over_few_connections(yard: Yard, sendgrid: FakeSendGrid) -> None:
    before = sendgrid.connections
    send([Event(NAME, welcome(f"r{n}@example.com")) for n in range(120)])
    yard.work()
    assert len(sendgrid.mails) == 120 and sendgrid.connections - before <= 8


def test_suppressed_addresses_are_left_out_and_that_is_said(yard: Yard, sendgrid: FakeSendGrid) -> None:
    EmailMessages().suppress("Gone@Example.com", "bounced")
    alone, among = send([Event(NAME, welcome("gone@example.com")), Event(NAME, {**welcome("ada@example.com"), "to": ["ada@example.com", "GONE@example.com"]})])
    yard.work()
    assert outcome(alone)["output"]["status"] == "suppressed" and outcome(alone)["output"]["suppressed"] == ["gone@example.com"]
    assert outcome(among)["output"]["suppressed"] == ["gone@example.com"]
    assert [mail["personalizations"][0]["to"] for mail in sendgrid.mails] == [[{"email": "ada@example.com"}]]
    assert sorted(row["status"] for row in messages()) == ["sent", "suppressed"]


def test_a_missing_variable_is_final_and_named(yard: Yard, sendgrid: FakeSendGrid) -> None:
    [event_id] = send(NAME, {"to": ["ada@example.com"], "template": "welcome"})
    yard.work()
    assert outcome(event_id)["status"] == "failed" and "'name' is undefined" in outcome(event_id)["error"]["message"]
    assert sendgrid.mails == []


def test_what_sendgrid_refuses_is_final_with_its_words(yard: Yard, sendgrid: FakeSendGrid) -> None:
    good, bad = send([Event(NAME, welcome("ada@example.com")), Event(NAME, welcome("refused@example.com"))])
    yard.work()
    assert outcome(good)["status"] == "succeeded" and outcome(bad)["status"] == "failed"
    assert "Does not contain a valid address. (personalizations.0.to.0.email)" in outcome(bad)["error"]["message"]
    assert {row["recipients"][0]: row["status"] for row in messages()} == {"ada@example.com": "sent", "refused@example.com": "failed"}


@pytest.mark.parametrize("failure", [500, 503, "reset", "garbage", "slow"])
def test_what_time_can_mend_is_tried_again_without_a_second_mail(yard: Yard, sendgrid: FakeSendGrid, failure: Any) -> None:
    sendgrid.failures.append(failure)
    [event_id] = send(NAME, welcome("ada@example.com"))
    yard.work()
    assert (outcome(event_id)["status"], sendgrid.mails) == ("queued", [])
    yard.advance("1m")
    assert outcome(event_id)["status"] == "succeeded" and len(sendgrid.mails) == 1
    assert [row["status"] for row in messages()] == ["sent"]


def test_429_is_obeyed_to_the_second_by_all(yard: Yard, sendgrid: FakeSendGrid) -> None:
    sendgrid.failures.append((429, 100.0))
    before = sendgrid.requests
    ids = send([Event(NAME, welcome(f"r{n}@example.com")) for n in range(60)])
    yard.work()
    waiting = [one for one in ids if outcome(one)["status"] == "queued"]
    assert waiting and sendgrid.requests - before < 60
    with database.connection() as connection:
        [row] = connection.execute("SELECT min(extract(epoch FROM due_at - runyard.now()))::float AS soonest FROM runyard.invocations WHERE status = 'queued'").fetchall()
    assert 95 < float(str(row["soonest"])) <= 102


def test_a_wrong_key_is_final_and_not_shown(yard: Yard, sendgrid: FakeSendGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    sendgrid.failures.append(401)
    [event_id] = send(NAME, welcome("ada@example.com"))
    yard.work()
    assert outcome(event_id)["status"] == "failed" and sendgrid.key not in str(event(event_id))


def test_plain_html_and_attachments_go_through(yard: Yard, sendgrid: FakeSendGrid) -> None:
    send(NAME, {"to": "a@example.com", "subject": "Report", "html": "<p>Here</p>", "attachments": [{"filename": "r.csv", "content": "YSxi", "type": "text/csv"}]})
    yard.work()
    [mail] = sendgrid.mails
    assert [part["type"] for part in mail["content"]] == ["text/plain", "text/html"] and mail["content"][0]["value"] == "Here\n"
    assert mail["attachments"] == [{"filename": "r.csv", "content": "YSxi", "type": "text/csv", "disposition": "attachment"}]


def test_send_at_reaches_sendgrid(yard: Yard, sendgrid: FakeSendGrid) -> None:
    at = int(time.time()) + 3600
    send(NAME, welcome("ada@example.com", send_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))))
    yard.work()
    assert sendgrid.mails[0]["send_at"] == at
