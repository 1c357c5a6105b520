"""The mail family against a SendGrid that validates requests and fails."""

import time
from pathlib import Path
from typing import Any

import pytest

from resources.email.sendgrid_client import SendGridAccount
from resources.email.tables import EmailMessages
from runyard import Event, send
from runyard.store import database
from runyard.store.queries import Row
from runyard.testing import Yard
from tests.conftest import event
from tests.fake_sendgrid import FakeSendGrid

NAME = "email/send.requested"


@pytest.fixture(autouse=True)
def fresh(sendgrid: FakeSendGrid) -> None:
    """No mails, no pending failures, no pause from an earlier test."""
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
    [event_id] = send(
        NAME, welcome("Ada <ada@example.com>", cc=["c@example.com"], reply_to="help@example.com")
    )
    yard.work()
    [mail] = sendgrid.mails
    assert mail["personalizations"][0]["to"] == [{"email": "ada@example.com", "name": "Ada"}]
    assert mail["personalizations"][0]["cc"] == [{"email": "c@example.com"}]
    assert mail["reply_to"] == {"email": "help@example.com"}
    assert mail["subject"] == "Welcome, Ada"
    assert mail["from"] == {
        "email": "r@example.com",
        "name": "R",
    }
    [row] = messages()
    assert (row["status"], row["provider"], row["event_id"]) == ("sent", "sendgrid", event_id)
    assert row["provider_message_id"] == outcome(event_id)["output"]["message_id"]


def test_many_mails_go_over_few_connections(yard: Yard, sendgrid: FakeSendGrid) -> None:
    before = sendgrid.connections
    send([Event(NAME, welcome(f"r{n}@example.com")) for n in range(120)])
    yard.work()
    assert len(sendgrid.mails) == 120
    assert sendgrid.connections - before <= 8


def test_suppressed_addresses_are_dropped_and_reported(yard: Yard, sendgrid: FakeSendGrid) -> None:
    EmailMessages().suppress("Gone@Example.com", "bounced")
    alone, among = send(
        [
            Event(NAME, welcome("gone@example.com")),
            Event(
                NAME, {**welcome("ada@example.com"), "to": ["ada@example.com", "GONE@example.com"]}
            ),
        ]
    )
    yard.work()
    assert outcome(alone)["output"]["status"] == "suppressed"
    assert outcome(alone)["output"]["suppressed"] == ["gone@example.com"]
    assert outcome(among)["output"]["suppressed"] == ["gone@example.com"]
    assert [mail["personalizations"][0]["to"] for mail in sendgrid.mails] == [
        [{"email": "ada@example.com"}]
    ]
    assert sorted(row["status"] for row in messages()) == ["sent", "suppressed"]


def test_a_missing_variable_is_final_and_named(yard: Yard, sendgrid: FakeSendGrid) -> None:
    [event_id] = send(NAME, {"to": ["ada@example.com"], "template": "welcome"})
    yard.work()
    assert outcome(event_id)["status"] == "failed"
    assert "'name' is undefined" in outcome(event_id)["error"]["message"]
    assert sendgrid.mails == []


def test_what_sendgrid_refuses_is_final_with_its_words(yard: Yard, sendgrid: FakeSendGrid) -> None:
    good, bad = send(
        [Event(NAME, welcome("ada@example.com")), Event(NAME, welcome("refused@example.com"))]
    )
    yard.work()
    assert outcome(good)["status"] == "succeeded"
    assert outcome(bad)["status"] == "failed"
    assert (
        "Does not contain a valid address. (personalizations.0.to.0.email)"
        in outcome(bad)["error"]["message"]
    )
    assert {row["recipients"][0]: row["status"] for row in messages()} == {
        "ada@example.com": "sent",
        "refused@example.com": "failed",
    }


@pytest.mark.parametrize("failure", [500, 503, "reset", "garbage", "slow"])
def test_what_time_can_mend_is_tried_again_without_a_second_mail(
    yard: Yard, sendgrid: FakeSendGrid, failure: Any
) -> None:
    sendgrid.failures.append(failure)
    [event_id] = send(NAME, welcome("ada@example.com"))
    yard.work()
    assert (outcome(event_id)["status"], sendgrid.mails) == ("queued", [])
    yard.advance("1m")
    assert outcome(event_id)["status"] == "succeeded"
    assert len(sendgrid.mails) == 1
    assert [row["status"] for row in messages()] == ["sent"]


def test_429_is_obeyed_to_the_second_by_all(yard: Yard, sendgrid: FakeSendGrid) -> None:
    sendgrid.failures.append((429, 100.0))
    before = sendgrid.requests
    ids = send([Event(NAME, welcome(f"r{n}@example.com")) for n in range(60)])
    yard.work()
    waiting = [one for one in ids if outcome(one)["status"] == "queued"]
    assert waiting
    assert sendgrid.requests - before < 60
    with database.connection() as connection:
        [row] = connection.execute(
            "SELECT min(extract(epoch FROM due_at - runyard.now()))::float AS soonest"
            " FROM runyard.invocations WHERE status = 'queued'"
        ).fetchall()
    assert 95 < float(str(row["soonest"])) <= 102


def test_a_wrong_key_is_final_and_not_shown(
    yard: Yard, sendgrid: FakeSendGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendgrid.failures.append(401)
    [event_id] = send(NAME, welcome("ada@example.com"))
    yard.work()
    assert outcome(event_id)["status"] == "failed"
    assert sendgrid.key not in str(event(event_id))


def test_plain_html_and_attachments_go_through(yard: Yard, sendgrid: FakeSendGrid) -> None:
    send(
        NAME,
        {
            "to": "a@example.com",
            "subject": "Report",
            "html": "<p>Here</p>",
            "attachments": [{"filename": "r.csv", "content": "YSxi", "type": "text/csv"}],
        },
    )
    yard.work()
    [mail] = sendgrid.mails
    assert [part["type"] for part in mail["content"]] == ["text/plain", "text/html"]
    assert mail["content"][0]["value"] == "Here\n"
    assert mail["attachments"] == [
        {"filename": "r.csv", "content": "YSxi", "type": "text/csv", "disposition": "attachment"}
    ]


def test_send_at_reaches_sendgrid(yard: Yard, sendgrid: FakeSendGrid) -> None:
    at = int(time.time()) + 3600
    send(
        NAME,
        welcome("ada@example.com", send_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))),
    )
    yard.work()
    assert sendgrid.mails[0]["send_at"] == at


def sent_to(sendgrid: FakeSendGrid) -> dict[str, Any]:
    """The recipients of the only mail, without our own fields."""
    [mail] = sendgrid.mails
    return {
        field: value
        for field, value in mail["personalizations"][0].items()
        if field != "custom_args"
    }


def test_names_and_domains_of_any_script_reach_sendgrid_as_it_takes_them(
    yard: Yard, sendgrid: FakeSendGrid
) -> None:
    to = [
        "Jörg <info@müller.example>",
        "=?utf-8?b?Wm/DqyDDhW5nc3Ryw7Zt?= <zoe@example.com>",
        '"Lovelace, Ada" <ada@example.com>',
    ]
    [event_id] = send(NAME, {"to": to, "subject": "s", "text": "t"})
    yard.work()
    assert outcome(event_id)["status"] == "succeeded"
    assert sent_to(sendgrid)["to"] == [
        {"email": "info@xn--mller-kva.example", "name": "Jörg"},
        {"email": "zoe@example.com", "name": "Zoë Ångström"},
        {"email": "ada@example.com", "name": "Lovelace Ada"},
    ]
    assert messages()[0]["recipients"] == [
        "Jörg <info@müller.example>",
        "Zoë Ångström <zoe@example.com>",
        '"Lovelace, Ada" <ada@example.com>',
    ]


def test_two_addresses_in_one_text_are_both_sent_to(yard: Yard, sendgrid: FakeSendGrid) -> None:
    send(NAME, {"to": "Ada <ada@example.com>, Bob <bob@example.com>", "subject": "s", "text": "t"})
    yard.work()
    assert [found["email"] for found in sent_to(sendgrid)["to"]] == [
        "ada@example.com",
        "bob@example.com",
    ]


def test_an_address_that_stands_twice_is_sent_to_once(yard: Yard, sendgrid: FakeSendGrid) -> None:
    fields = {
        "to": "ada@example.com",
        "cc": ["ADA@example.com", "Bob <bob@example.com>"],
        "bcc": "bob@example.com",
    }
    [event_id] = send(NAME, {**fields, "subject": "s", "text": "t"})
    yard.work()
    assert outcome(event_id)["status"] == "succeeded"
    assert sent_to(sendgrid) == {
        "to": [{"email": "ada@example.com"}],
        "cc": [{"email": "bob@example.com", "name": "Bob"}],
    }
    assert messages()[0]["recipients"] == ["ada@example.com", "Bob <bob@example.com>"]


def test_a_suppressed_address_is_known_however_its_domain_is_written(
    yard: Yard, sendgrid: FakeSendGrid
) -> None:
    EmailMessages().suppress("info@xn--mller-kva.example", "bounced")
    [event_id] = send(NAME, {"to": "Info@Müller.example", "subject": "s", "text": "t"})
    yard.work()
    assert outcome(event_id)["output"]["suppressed"] == ["info@müller.example"]
    assert sendgrid.mails == []


def test_a_suppression_inserted_by_hand_in_ascii_applies(
    yard: Yard, sendgrid: FakeSendGrid
) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO app.suppressions (address, reason)"
            " VALUES ('info@xn--mller-kva.example', 'by hand')"
        )
    send(NAME, {"to": "info@müller.example", "subject": "s", "text": "t"})
    yard.work()
    assert sendgrid.mails == []


def test_an_address_that_is_not_ascii_before_the_at_sign_is_refused_with_what_to_set(
    yard: Yard, sendgrid: FakeSendGrid
) -> None:
    before = sendgrid.requests
    [event_id] = send(NAME, {"to": "jörg@example.com", "subject": "s", "text": "t"})
    yard.work()
    assert outcome(event_id)["status"] == "failed"
    assert outcome(event_id)["error"]["message"].startswith(
        "jörg@example.com is not ASCII before the @"
    )
    assert "SENDGRID_SMTPUTF8=1" in messages()[0]["error"]
    assert sendgrid.requests == before


def test_an_attachment_reaches_sendgrid_as_it_takes_it(yard: Yard, sendgrid: FakeSendGrid) -> None:
    attachment = {
        "filename": "a, b; c.csv",
        "content": "YSxi\r\nMSwy\r\n",
        "type": "text/csv; charset=utf-8",
    }
    send(NAME, {"to": "ada@example.com", "subject": "s", "text": "t", "attachments": [attachment]})
    yard.work()
    [mail] = sendgrid.mails
    assert mail["attachments"] == [
        {
            "filename": "a b c.csv",
            "content": "YSxiMSwy",
            "type": "text/csv",
            "disposition": "attachment",
        }
    ]


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"text": "", "html": "<p>Hi</p>"}, ["text/plain", "text/html"]),
        ({"html": "<img src='https://shop.example/a.png'>"}, ["text/html"]),
        ({"text": "Hi", "html": " "}, ["text/plain"]),
    ],
)
def test_a_blank_part_is_not_sent(
    yard: Yard, sendgrid: FakeSendGrid, fields: dict[str, Any], kinds: list[str]
) -> None:
    [event_id] = send(NAME, {"to": "ada@example.com", "subject": "s", **fields})
    yard.work()
    assert outcome(event_id)["status"] == "succeeded"
    assert [part["type"] for part in sendgrid.mails[0]["content"]] == kinds


def test_a_template_that_renders_to_nothing_is_final(
    yard: Yard, sendgrid: FakeSendGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.txt").write_text("Subject: {{ title }}\n")
    (tmp_path / "empty.html").write_text("\n")
    monkeypatch.setenv("MAIL_TEMPLATES", str(tmp_path))
    [event_id] = send(
        NAME, {"to": "ada@example.com", "template": "empty", "data": {"title": "News"}}
    )
    yard.work()
    assert outcome(event_id)["status"] == "failed"
    assert "there is nothing to send" in outcome(event_id)["error"]["message"]
