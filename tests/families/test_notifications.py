"""Notifications by preference, the contact form, the welcome: what is sent, and when."""

import base64
import json
from collections.abc import Iterator
from datetime import time
from typing import Any

import pytest

from demo.fake_server import FakeServer, Handler
from resources import safe_http
from resources.contact.tables import mailbox
from resources.email.templates import render_template
from resources.notifications.tables import Notifications, Preferences
from runyard.gateway.http.signatures import StandardWebhooks
from runyard.testing import Invocation, Yard
from tests.tables import rows

SECRET = "whsec_" + base64.b64encode(b"a secret of the tests, long enough").decode()


class Receiver(FakeServer):
    """A user's own server."""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        if request.path == "/away":
            return request.answer(302, headers={"Location": "http://169.254.169.254/latest"})
        return request.answer(204)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        monkeypatch.setenv("RUNYARD_ALLOWED_HOSTS", server.url.removeprefix("http://"))
        monkeypatch.setenv("NOTIFY_WEBHOOK_SECRET", SECRET)
        yield server


def tell(yard: Yard, **more: Any) -> Invocation:
    invocation = yard.send(
        "notification/requested",
        {"user": "ada", "kind": "report", "title": "Ready", "message": "It has 12 pages.", **more},
    ).invocation
    yard.work()
    return invocation


def prefer(**more: Any) -> None:
    Notifications().save(Preferences(user_id="ada", email="ada@example.com", **more))


def mails(yard: Yard) -> list[dict[str, Any]]:
    return [dict(event.data) for event in yard.sent("email/send.requested")]


def test_a_user_without_preferences_is_notified_in_the_application(yard: Yard) -> None:
    invocation = tell(yard)
    assert invocation.output == {"channels": ["in-app"], "dropped": ["mail: no address is known"]}
    assert [(row["user_id"], row["title"]) for row in rows("SELECT * FROM app.notifications")] == [
        ("ada", "Ready")
    ]
    assert mails(yard) == []


def test_mail_and_webhook_go_out_and_the_webhook_is_signed(yard: Yard, receiver: Receiver) -> None:
    prefer(webhook_url=f"{receiver.url}/hook", channels=["in-app", "mail", "webhook"])
    invocation = tell(yard, action_url="https://example.com/r")
    assert invocation.status == "succeeded", invocation
    assert mails(yard)[0]["data"] == {
        "title": "Ready",
        "message": "It has 12 pages.",
        "action_url": "https://example.com/r",
    }
    [(method, path, headers, body)] = receiver.requests
    assert (method, path) == ("POST", "/hook")
    assert json.loads(body)["data"]["title"] == "Ready"
    StandardWebhooks("NOTIFY_WEBHOOK_SECRET").check(
        {name.lower(): value for name, value in headers.items()}, body
    )


@pytest.mark.parametrize("failure", [500, "reset", (429, {"Retry-After": "70"})])
def test_a_webhook_is_tried_again_under_the_same_id(
    yard: Yard, receiver: Receiver, failure: Any
) -> None:
    prefer(webhook_url=receiver.url, channels=["webhook"])
    receiver.failures.append(failure)
    invocation = tell(yard)
    assert invocation.status == "queued"
    yard.advance("2m")
    assert invocation.status == "succeeded"
    assert len({headers["webhook-id"] for _, _, headers, _ in receiver.requests}) == 1
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "file:///etc/passwd",
        "http://u:p@example.com/",
    ],
)
def test_a_webhook_into_a_private_network_is_final(yard: Yard, url: str) -> None:
    prefer(webhook_url=url, channels=["webhook"])
    invocation = tell(yard)
    assert invocation.status == "failed", invocation


def test_a_webhook_that_redirects_is_not_followed(yard: Yard, receiver: Receiver) -> None:
    prefer(webhook_url=f"{receiver.url}/away", channels=["webhook"])
    assert tell(yard).status == "failed"
    assert len(receiver.requests) == 1


def test_quiet_hours_hold_mail_but_not_the_application(yard: Yard) -> None:
    from datetime import timedelta

    now = yard.now
    prefer(
        quiet_from=(now - timedelta(minutes=1)).time(),
        quiet_until=(now + timedelta(hours=7)).time().replace(microsecond=0),
    )
    invocation = tell(yard)
    assert invocation.status == "sleeping"
    assert mails(yard) == []
    assert len(rows("SELECT 1 FROM app.notifications")) == 1
    yard.advance("7h")
    assert invocation.status == "succeeded"
    assert len(mails(yard)) == 1


def test_quiet_hours_go_over_midnight_in_the_users_time_zone() -> None:
    from datetime import UTC, datetime

    night = Preferences(
        user_id="u", quiet_from=time(22), quiet_until=time(7), timezone="Europe/Berlin"
    )
    assert night.quiet_end(datetime(2026, 1, 1, 20, 59, tzinfo=UTC)) is None
    end = night.quiet_end(datetime(2026, 1, 1, 21, 0, tzinfo=UTC))
    assert end is not None
    assert end.astimezone(UTC) == datetime(2026, 1, 2, 6, 0, tzinfo=UTC)
    end = night.quiet_end(datetime(2026, 1, 2, 5, 59, tzinfo=UTC))
    assert end is not None
    assert end.astimezone(UTC) == datetime(2026, 1, 2, 6, 0, tzinfo=UTC)
    assert night.quiet_end(datetime(2026, 1, 2, 6, 0, tzinfo=UTC)) is None


def test_muted_and_disabled_notifications_are_dropped(yard: Yard) -> None:
    prefer(channels=["in-app"], muted=["marketing"])
    assert tell(yard, kind="marketing").output["dropped"] == ["ada has muted marketing"]
    assert tell(yard, channels=["mail"]).output["dropped"] == ["mail: switched off by ada"]
    assert mails(yard) == []


def test_a_digest_is_one_mail_for_all_notifications(yard: Yard) -> None:
    prefer(digest=True)
    Notifications().save(Preferences(user_id="bob", email="bob@example.com", digest=True))
    for number in range(3):
        tell(yard, title=f"Number {number}")
    tell(yard, user="bob")
    assert mails(yard) == []
    yard.advance("10m")
    by_address = {
        mail["to"][0]: [one["title"] for one in mail["data"]["notifications"]]
        for mail in mails(yard)
    }
    assert by_address == {
        "ada@example.com": ["Number 0", "Number 1", "Number 2"],
        "bob@example.com": ["Ready"],
    }
    assert all(invocation.status == "succeeded" for invocation in yard.invocations("send_email"))


def contact(yard: Yard, **more: Any) -> Invocation:
    invocation = yard.send(
        "contact/submitted",
        {"name": "Grace", "email": "grace@example.com", "message": "Do you ship?", **more},
    ).invocation
    yard.work()
    return invocation


def test_a_contact_form_tells_the_staff_and_the_sender(yard: Yard) -> None:
    assert contact(yard).status == "succeeded"
    staff, sender = mails(yard)
    assert (staff["to"], staff["reply_to"], staff["template"]) == (
        ["team@example.com"],
        "grace@example.com",
        "contact",
    )
    assert (sender["to"], sender["template"]) == (["grace@example.com"], "contact_received")
    assert [invocation.status for invocation in yard.invocations("send_email")] == ["succeeded"] * 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"website": "https://spam"}, "the field that people do not see was filled in"),
        ({"message": "http://a http://b www.c [url=d]"}, "4 links"),
    ],
)
def test_spam_is_stored_and_nobody_is_notified(
    yard: Yard, more: dict[str, str], reason: str
) -> None:
    invocation = contact(yard, **more)
    assert invocation.status == "succeeded"
    assert mails(yard) == []
    assert invocation.steps["check-for-spam"].output["spam"] == [reason]
    assert rows("SELECT reasons FROM app.contact_messages") == [{"reasons": [reason]}]


def test_the_sixth_message_within_an_hour_is_spam(yard: Yard) -> None:
    for _ in range(6):
        invocation = contact(yard)
    assert (
        "more than 5 messages within an hour"
        in invocation.steps["check-for-spam"].output["spam"][0]
    )
    assert len(mails(yard)) == 10
    yard.advance("1h")
    assert contact(yard).steps["check-for-spam"].output == {"spam": [], "unacknowledged": None}


def test_an_acknowledgement_has_nothing_of_what_a_stranger_wrote(yard: Yard) -> None:
    contact(
        yard,
        name="Buy at spam.example",
        email="Buy at spam.example <grace@example.com>",
        message="Buy at spam.example",
    )
    [acknowledgement] = [mail for mail in mails(yard) if mail["template"] == "contact_received"]
    assert acknowledgement == {"to": ["grace@example.com"], "template": "contact_received"}
    rendered = render_template("contact_received", {})
    assert "spam.example" not in str(rendered)


def test_beyond_the_limit_over_all_the_staff_is_told_and_the_sender_is_not(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTACT_ACKNOWLEDGEMENTS", "2")
    outputs = [
        contact(yard, email=f"{name}@example.com").steps["check-for-spam"].output
        for name in ("a", "b", "c")
    ]
    why = "more than 2 acknowledgements within an hour (CONTACT_ACKNOWLEDGEMENTS)"
    assert [output["unacknowledged"] for output in outputs] == [None, None, why]
    assert [mail["template"] for mail in mails(yard)].count("contact") == 3
    assert [mail["template"] for mail in mails(yard)].count("contact_received") == 2
    yard.advance("1h")
    assert (
        contact(yard, email="d@example.com").steps["check-for-spam"].output["unacknowledged"]
        is None
    )


def test_the_limit_over_all_can_be_none_at_all(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTACT_ACKNOWLEDGEMENTS", "0")
    contact(yard)
    assert [mail["template"] for mail in mails(yard)] == ["contact"]


@pytest.mark.parametrize("given", ["many", "-1", "1.5", "²"])
def test_a_limit_that_is_not_a_number_gives_an_error_that_names_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("CONTACT_ACKNOWLEDGEMENTS", given)
    invocation = contact(yard)
    assert invocation.status == "failed"
    assert "CONTACT_ACKNOWLEDGEMENTS" in str(invocation.steps["check-for-spam"].error)


def test_a_mailbox_is_counted_however_its_address_is_written(yard: Yard) -> None:
    for email in (
        "grace@example.com",
        "Grace <grace@example.com>",
        "GRACE@Example.com",
        "grace+1@example.com",
        "Other <grace+2@example.com>",
        "grace+3@example.com",
    ):
        invocation = contact(yard, email=email)
    assert (
        "more than 5 messages within an hour"
        in invocation.steps["check-for-spam"].output["spam"][0]
    )


@pytest.mark.parametrize(
    ("address", "box"),
    [
        ("A.da+x@GMail.com", "ada@gmail.com"),
        ("a.da@example.com", "a.da@example.com"),
        ("Ada <ada+b+c@example.com>", "ada@example.com"),
        ("+x@example.com", "+x@example.com"),
    ],
)
def test_the_mailbox_behind_an_address(address: str, box: str) -> None:
    assert mailbox(address) == box


def test_a_new_user_is_welcomed_and_written_to_again(yard: Yard) -> None:
    invocation = yard.send(
        "user/created", {"user": "ada", "email": "ada@example.com", "name": "Ada"}
    ).invocation
    yard.work()
    assert [mail["template"] for mail in mails(yard)] == ["welcome"]
    assert invocation.status == "sleeping"
    yard.advance("71h")
    assert len(mails(yard)) == 1
    yard.advance("1h")
    assert [mail["template"] for mail in mails(yard)] == ["welcome", "follow_up"]
    assert [invocation.status for invocation in yard.invocations("send_email")] == ["succeeded"] * 2


def test_who_has_come_back_is_not_written_to_again(yard: Yard) -> None:
    invocation = yard.send(
        "user/created", {"user": "ada", "email": "ada@example.com", "name": "Ada"}
    ).invocation
    yard.advance("2d")
    yard.send("user/returned", {"user": "bob"})
    yard.send("user/returned", {"user": "ada"})
    yard.advance("2d")
    assert invocation.status == "succeeded"
    assert len(mails(yard)) == 1


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:192.168.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ],
)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not safe_http.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_these_are(address: str) -> None:
    assert safe_http.is_public(address)
