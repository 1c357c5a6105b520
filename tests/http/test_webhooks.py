"""Webhooks: SendGrid's reports in any order, and other senders with their own signatures."""

import base64
import hmac
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook, EventWebhookHeader

from resources.email.tables import EmailMessages, Message
from resources.webhooks.tables import read_payload
from runyard import InvalidOption, NonRetriable
from runyard.gateway.api.extensions import Webhook
from runyard.gateway.http.signatures import BodyHmac
from runyard.store import database
from tests.web_process import WebProcess, count


def report(
    kind: str,
    number: int,
    message: str = "m-1",
    at: int = 0,
    email: str = "Ada@example.com",
    **more: Any,
) -> dict[str, Any]:
    """A report as SendGrid's reference has it."""
    return {
        "email": email,
        "timestamp": 1_780_000_000 + at,
        "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
        "event": kind,
        "category": ["cat facts"],
        "sg_event_id": f"event-{number:03}",
        "sg_message_id": f"provider-{message}.filter0001.16648.5515E0B88.0",
        "message_id": message,
        **more,
    }


EVERY_KIND = [
    report("processed", 1),
    report("deferred", 2, at=1, response="400 try again later", attempt="5"),
    report("delivered", 3, at=2, response="250 OK"),
    report("open", 4, at=3, useragent="Mozilla/4.0", ip="255.255.255.255", sg_machine_open=False),
    report("click", 5, at=4, url="https://example.com/", url_offset={"index": 0, "type": "html"}),
    report("processed", 6, "m-2", email="bo@example.com"),
    report(
        "bounce",
        7,
        "m-2",
        5,
        "bo@example.com",
        reason="500 unknown recipient",
        status="5.0.0",
        type="bounce",
        bounce_classification="Invalid Address",
    ),
    report(
        "bounce",
        8,
        "m-3",
        5,
        "cy@example.com",
        reason="550 blocked by policy",
        status="5.7.1",
        type="blocked",
    ),
    report("dropped", 9, "m-4", 1, "di@example.com", reason="Bounced Address", status="5.0.0"),
    report("delivered", 10, "m-5", 1, "ed@example.com"),
    report("spamreport", 11, "m-5", 9, "ed@example.com"),
    report("delivered", 12, "m-6", 1, "fay@example.com"),
    report("unsubscribe", 13, "m-6", 9, "fay@example.com"),
    report("delivered", 14, "m-7", 1, "gil@example.com"),
    report("group_unsubscribe", 15, "m-7", 2, "gil@example.com", asm_group_id=10),
    report("group_resubscribe", 16, "m-7", 8, "gil@example.com", asm_group_id=10),
    report("group_unsubscribe", 17, "m-7", 3, "gil@example.com", asm_group_id=11),
    report("group_unsubscribe", 18, "m-8", 2, "hal@example.com", asm_group_id=10),
    report("group_resubscribe", 19, "m-8", 3, "hal@example.com", asm_group_id=10),
    {**report("delivered", 20, "m-9", 1, "ida@example.com"), "message_id": None},
    {
        **report("delivered", 21, "unknown", 1, "joe@example.com"),
        "message_id": "not-one-of-ours",
        "asm_group_id": 3,
    },
    report("account_status_change", 22, "m-1"),
]
STATES = {
    "m-1": "clicked",
    "m-2": "bounced",
    "m-3": "bounced",
    "m-4": "dropped",
    "m-5": "complained",
    "m-6": "unsubscribed",
    "m-7": "unsubscribed",
    "m-8": "unsubscribed",
    "m-9": "delivered",
}
SUPPRESSED = {
    "bo@example.com": "hard bounce",
    "ed@example.com": "spam report",
    "fay@example.com": "unsubscribed",
    "gil@example.com": "unsubscribed",
}


@pytest.fixture
def mails() -> None:
    """Nine sent mails."""
    messages = EmailMessages()
    ids = [f"m-{number}" for number in range(1, 10)]
    messages.record([Message(one, "event", ["x@example.com"], "Hi", None, "queued") for one in ids])
    messages.mark_sent([(one, "sendgrid", f"provider-{one}") for one in ids])


def post(
    web: WebProcess, key: ec.EllipticCurvePrivateKey, reports: Any, *, body: bytes | None = None
) -> httpx.Response:
    """Post signed reports, as SendGrid does."""
    raw = json.dumps(reports).encode() if body is None else body
    timestamp = str(int(time.time()))
    signature = base64.b64encode(
        key.sign(timestamp.encode() + raw, ec.ECDSA(hashes.SHA256()))
    ).decode()
    headers = {EventWebhookHeader.SIGNATURE: signature, EventWebhookHeader.TIMESTAMP: timestamp}
    return httpx.post(f"{web.url}/webhooks/sendgrid", content=raw, headers=headers, timeout=30)


def state() -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The mails' statuses, suppressed addresses with reasons, and the events that report them."""
    with database.connection() as connection:
        mails = {
            str(row["id"]): str(row["status"])
            for row in connection.execute("SELECT id, status FROM app.email_messages").fetchall()
        }
        suppressed = {
            str(row["address"]): str(row["reason"])
            for row in connection.execute("SELECT address, reason FROM app.suppressions").fetchall()
        }
        told = sorted(
            str(row["k"])
            for row in connection.execute(
                "SELECT name || ' ' || (data->>'address') AS k FROM runyard.events"
            ).fetchall()
        )
    return mails, suppressed, told


TOLD = [
    "email/bounced bo@example.com",
    "email/complained ed@example.com",
    "email/unsubscribed fay@example.com",
    "email/unsubscribed gil@example.com",
    "email/unsubscribed gil@example.com",
    "email/unsubscribed hal@example.com",
]


@pytest.mark.usefixtures("mails")
def test_every_kind_of_report_in_one_batch(web: WebProcess, sendgrid_keys: tuple[Any, str]) -> None:
    answer = post(web, sendgrid_keys[0], EVERY_KIND)
    assert answer.status_code == 200
    assert len(answer.json()["ids"]) == len(TOLD)
    assert state() == (STATES, SUPPRESSED, TOLD)
    with database.connection() as connection:
        row = connection.execute("SELECT error FROM app.email_messages WHERE id = 'm-2'").fetchone()
        bounced = connection.execute(
            "SELECT data FROM runyard.events WHERE name = 'email/bounced'"
        ).fetchone()
    assert row == {"error": "500 unknown recipient"}
    assert bounced is not None
    assert bounced["data"] == {
        "address": "bo@example.com",
        "message": "m-2",
        "reason": "500 unknown recipient",
        "at": "2026-05-28T20:26:45+00:00",
    }


@pytest.mark.usefixtures("mails")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.randoms(use_true_random=False))
def test_any_order_with_repeats_ends_in_the_same_state(
    web: WebProcess, sendgrid_keys: tuple[Any, str], chance: random.Random
) -> None:
    with database.connection() as connection:
        connection.execute("TRUNCATE app.email_reports, app.suppressions, runyard.events")
        connection.execute("UPDATE app.email_messages SET status = 'sent'")
    dealt = EVERY_KIND + chance.sample(EVERY_KIND, 8)
    chance.shuffle(dealt)
    while dealt:
        size = chance.randint(1, 12)
        assert post(web, sendgrid_keys[0], dealt[:size]).status_code == 200
        dealt = dealt[size:]
    assert state() == (STATES, SUPPRESSED, TOLD)
    assert count("app.email_reports") == len(EVERY_KIND)


@pytest.mark.usefixtures("mails")
def test_batches_that_come_at_the_same_time_end_in_the_same_state(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    def deliver(number: int) -> None:
        dealt = random.Random(number).sample(EVERY_KIND, len(EVERY_KIND))
        # A 503 (two batches may block each other) is retried, as SendGrid does.
        while post(web, sendgrid_keys[0], dealt).status_code != 200:
            pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(deliver, range(16)))
    assert state() == (STATES, SUPPRESSED, TOLD)


@pytest.mark.usefixtures("mails")
def test_a_report_that_was_faster_than_our_own_record_is_not_overwritten(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    messages = EmailMessages()
    messages.record([Message("m-fast", "event", ["x@example.com"], "Hi", None, "queued")])
    post(web, sendgrid_keys[0], [report("delivered", 90, "m-fast")])
    messages.mark_sent([("m-fast", "sendgrid", "provider-m-fast")])
    assert state()[0]["m-fast"] == "delivered"


def test_what_was_suppressed_by_hand_is_not_taken_back(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    EmailMessages().suppress("hal@example.com", "asked us by phone")
    post(web, sendgrid_keys[0], EVERY_KIND)
    assert state()[1]["hal@example.com"] == "asked us by phone"


def test_sendgrids_own_helper_agrees_with_the_signature(sendgrid_keys: tuple[Any, str]) -> None:
    private, public = sendgrid_keys
    signature = base64.b64encode(private.sign(b"1600[]", ec.ECDSA(hashes.SHA256()))).decode()
    assert EventWebhook(public).verify_signature("[]", signature, "1600")


def test_reports_that_sendgrid_did_not_sign_are_refused(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert post(web, other, EVERY_KIND).status_code == 401
    body = json.dumps(EVERY_KIND)
    for headers in (
        {},
        {EventWebhookHeader.SIGNATURE: "xx", EventWebhookHeader.TIMESTAMP: "1"},
        {EventWebhookHeader.SIGNATURE: "A" * 96, EventWebhookHeader.TIMESTAMP: "1"},
        {EventWebhookHeader.SIGNATURE: "ä".encode(), EventWebhookHeader.TIMESTAMP: b"1"},
    ):
        assert (
            httpx.post(f"{web.url}/webhooks/sendgrid", content=body, headers=headers).status_code
            == 401
        )  # type: ignore[arg-type]
    assert count("app.email_reports") == 0


@pytest.mark.parametrize("reports", [{}, "text", 1, None])
def test_a_signed_body_that_is_not_a_batch_is_rejected(
    web: WebProcess, sendgrid_keys: tuple[Any, str], reports: Any
) -> None:
    answer = post(web, sendgrid_keys[0], reports)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert count("app.email_reports") == 0


BOUNCE = report("bounce", 900, email="gone@example.com", reason="550 no such user", type="bounce")
NOT_UNDERSTOOD = {
    "an event of the account": {
        "event": "account_status_change",
        "sg_event_id": "a",
        "timestamp": 1_780_000_001,
        "type": "compliance_suspend",
    },
    "no object": 1,
    "nothing": None,
    "a list": [],
    "an empty object": {},
    "no kind": {**EVERY_KIND[0], "event": None},
    "a kind that is no text": {**EVERY_KIND[0], "event": {"a": 1}},
    "no address": {**EVERY_KIND[0], "email": None},
    "an address that is none": {**EVERY_KIND[0], "email": "x"},
    "an address with NUL": {**EVERY_KIND[0], "email": "a\x00b@example.com"},
    "a time that is none": {**EVERY_KIND[0], "timestamp": "soon"},
    "a time without end": {**EVERY_KIND[0], "timestamp": 10**400},
}
UNDERSTOOD = {
    "NUL in its reason": report(
        "bounce", 901, email="x@example.com", reason="550 user unknown\x00", type="bounce"
    ),
    "half an emoji in a field that nobody reads": report(
        "click", 902, url="https://shop.example/?q=\ud83d"
    ),
    "NUL in a name that nobody reads": report("open", 903, **{"a\x00": 1}),
    "a long id": {**report("open", 904), "sg_event_id": "x" * 600},
    "NUL in its id": {**report("open", 905), "sg_event_id": "x\x00"},
    "an id that is no text": {**report("open", 906), "sg_event_id": {"a": 1}},
    "no id": {**report("open", 907), "sg_event_id": None},
    "a long id of a mail": report("open", 908, message="m" * 600),
    "an id of a mail that is no text": {**report("open", 909), "message_id": ["m-1"]},
    "milliseconds": {**report("open", 910), "timestamp": 1_780_000_001_000},
    "a time as text": {**report("open", 911), "timestamp": "1780000001"},
    "milliseconds as text": {**report("open", 916), "timestamp": "1780000001000"},
    "a time in ISO 8601": {**report("open", 917), "timestamp": "2026-05-28T20:26:41Z"},
    "a group that is none": {**report("open", 918), "asm_group_id": 2**70},
    "an empty group": {**report("open", 919), "asm_group_id": ""},
    "a type of bounce that is none": {**report("bounce", 920, email="x@example.com"), "type": 7},
    "a kind that came later": report("amp_open", 912),
    "a reason that is no text": {**BOUNCE, "sg_event_id": "913", "reason": {"code": 550}},
    "a number that JSON has not": {**report("open", 914), "score": float("inf")},
    "lists in lists": {**report("open", 915), "deep": json.loads("[" * 300 + "]" * 300)},
}


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
@pytest.mark.usefixtures("mails")
def test_what_is_not_understood_loses_none_of_its_neighbours(
    web: WebProcess, sendgrid_keys: tuple[Any, str], name: str
) -> None:
    answer = post(web, sendgrid_keys[0], [NOT_UNDERSTOOD[name], BOUNCE, NOT_UNDERSTOOD[name]])
    assert answer.status_code == 200, answer.text
    assert (len(answer.json()["ids"]), answer.json()["not_understood"]) == (1, 2)
    assert state()[1] == {"gone@example.com": "hard bounce"}
    assert count("app.email_reports") == 1


@pytest.mark.parametrize("name", UNDERSTOOD)
@pytest.mark.usefixtures("mails")
def test_an_odd_field_loses_neither_its_report_nor_the_neighbours(
    web: WebProcess, sendgrid_keys: tuple[Any, str], name: str
) -> None:
    body = json.dumps([BOUNCE, UNDERSTOOD[name]]).replace("Infinity", "1e999").encode()
    answer = post(web, sendgrid_keys[0], None, body=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["not_understood"] == 0
    assert "gone@example.com" in state()[1]
    assert count("app.email_reports") == 2
    again = post(web, sendgrid_keys[0], None, body=body)
    assert (again.status_code, again.json()["ids"]) == (200, [])
    assert count("app.email_reports") == 2


def test_a_report_twice_in_a_batch_is_one(web: WebProcess, sendgrid_keys: tuple[Any, str]) -> None:
    assert len(post(web, sendgrid_keys[0], [BOUNCE, BOUNCE]).json()["ids"]) == 1
    assert count("app.email_reports") == 1


def test_a_report_finds_its_address_in_either_form_of_its_domain(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    post(web, sendgrid_keys[0], [{**BOUNCE, "email": "Info@xn--mller-kva.example"}])
    assert state()[1] == {"info@müller.example": "hard bounce"}
    assert EmailMessages().suppressed(["Jörg <info@müller.example>"]) == {"info@müller.example"}


def test_the_log_and_the_metrics_tell_what_was_not_understood_and_nothing_of_what_it_said(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    post(
        web,
        sendgrid_keys[0],
        [NOT_UNDERSTOOD["an event of the account"], {**BOUNCE, "email": "secret", "event": "a b"}],
    )
    log = web.log()
    assert (
        "webhook sendgrid: 2 parts could not be parsed: account_status_change (email);"
        " an element (email)"
    ) in log
    assert "secret" not in log
    assert 'runyard_webhook_not_understood_total{webhook="sendgrid"}' in web.get("/metrics").text


def test_a_body_that_is_not_text_is_refused(
    web: WebProcess, sendgrid_keys: tuple[Any, str]
) -> None:
    assert post(web, sendgrid_keys[0], None, body=b"\xff\xfe[]").status_code == 401
    assert post(web, sendgrid_keys[0], None, body=b"not json").status_code == 400


def github(
    web: WebProcess, body: bytes, secret: str = "github-secret", **headers: str
) -> httpx.Response:
    signature = "sha256=" + hmac.new(secret.encode(), body, sha256).hexdigest()
    given = {
        "X-Hub-Signature-256": signature,
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "72d3162e-cc78",
        **headers,
    }
    return httpx.post(f"{web.url}/webhooks/github", content=body, headers=given)


def test_a_delivery_of_github_becomes_an_event_once(web: WebProcess) -> None:
    body = json.dumps({"ref": "refs/heads/main", "commits": []}).encode()
    first, again = github(web, body), github(web, body)
    assert first.status_code == again.status_code == 200
    assert first.json()["ids"] == again.json()["ids"]
    assert count() == 1
    event = web.get(f"/api/events/{first.json()['ids'][0]}").json()
    assert (event["name"], event["source"], event["data"]["ref"]) == (
        "github/push",
        "webhook github",
        "refs/heads/main",
    )
    assert github(web, body, "another").status_code == 401
    assert github(web, body, **{"X-Hub-Signature-256": "sha1=abc"}).status_code == 401
    assert github(web, b"[1]").json()["code"] == "invalid_event"


def test_a_delivery_of_github_without_its_headers_names_them(web: WebProcess) -> None:
    body = b'{"ref": "refs/heads/main"}'
    signature = "sha256=" + hmac.new(b"github-secret", body, sha256).hexdigest()
    answer = httpx.post(
        f"{web.url}/webhooks/github", content=body, headers={"X-Hub-Signature-256": signature}
    )
    assert answer.status_code == 400
    assert "X-GitHub-Event is missing" in answer.json()["error"]


def test_a_delivery_of_github_may_be_a_form(web: WebProcess) -> None:
    body = urlencode({"payload": json.dumps({"ref": "refs/heads/ü", "commits": []})}).encode()
    answer = github(web, body, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200, answer.text
    assert web.get(f"/api/events/{answer.json()['ids'][0]}").json()["data"]["ref"] == "refs/heads/ü"


def test_what_curl_declares_as_a_form_may_be_json(web: WebProcess) -> None:
    answer = github(
        web, b'{"ref": "refs/heads/main"}', **{"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"other=1",
        b"payload=1&payload=2",
        b"a&b" * 100,
        "payload=ü".encode(),
        b"&".join([b"a=1"] * 50),
    ],
)
def test_a_form_of_github_without_its_field_says_what_to_choose(
    web: WebProcess, body: bytes
) -> None:
    answer = github(web, body, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 400
    assert "configure github to send application/json" in answer.json()["error"]


def push(size: int, **more: Any) -> dict[str, Any]:
    """A push event of GitHub whose commits have about this many bytes."""
    commits = [
        {"id": f"{number:040}", "message": "x" * 900, "added": ["a.py"]}
        for number in range(size // 1000)
    ]
    return {
        "ref": "refs/heads/main",
        "repository": {"id": 1, "full_name": "acme/shop"},
        "commits": commits,
        **more,
    }


@pytest.mark.parametrize("size", [700_000, 24_000_000])
def test_a_push_up_to_githubs_own_limit_is_kept_whole_beside_its_event(
    web: WebProcess, size: int
) -> None:
    sent = push(size)
    body = json.dumps(sent).encode()
    assert len(body) <= 25_000_000
    first, again = github(web, body), github(web, body)
    assert first.status_code == again.status_code == 200, first.text
    assert first.json()["ids"] == again.json()["ids"]
    data = web.get(f"/api/events/{first.json()['ids'][0]}").json()["data"]
    assert data == {
        "ref": "refs/heads/main",
        "repository": sent["repository"],
        "payload_ref": "github-72d3162e-cc78",
        "payload_bytes": data["payload_bytes"],
        "truncated": ["commits"],
    }
    assert read_payload(data["payload_ref"]) == sent
    assert count("app.webhook_payloads") == 1


def test_of_a_large_object_the_small_fields_stay_in_the_event(web: WebProcess) -> None:
    pull = {"number": 7, "title": "Fix", "body": "b" * 600_000, "user": {"login": "ada"}}
    answer = github(web, json.dumps({"action": "opened", "pull_request": pull}).encode())
    data = web.get(f"/api/events/{answer.json()['ids'][0]}").json()["data"]
    assert data["pull_request"] == {"number": 7, "title": "Fix", "user": {"login": "ada"}}
    assert (data["action"], data["truncated"]) == ("opened", ["pull_request.body"])


def test_a_payload_of_many_small_fields_leaves_an_event_that_fits(web: WebProcess) -> None:
    answer = github(
        web, json.dumps({f"field{number}": "x" * 10_000 for number in range(200)}).encode()
    )
    data = web.get(f"/api/events/{answer.json()['ids'][0]}").json()["data"]
    assert len(data["truncated"]) == 100
    assert len(json.dumps(data)) < 512 * 1024


@pytest.mark.parametrize("size", [0, 700_000])
def test_a_text_that_no_database_keeps_does_not_lose_its_delivery(
    web: WebProcess, size: int
) -> None:
    body = json.dumps(
        push(size, head_commit={"message": "fix\x00 caf\ud83d", "good": "\U0001f600"})
    ).encode()
    answer = github(web, body)
    assert answer.status_code == 200, answer.text
    data = web.get(f"/api/events/{answer.json()['ids'][0]}").json()["data"]
    assert data["head_commit"] == {"message": "fix\ufffd caf\ufffd", "good": "\U0001f600"}


def test_a_delivery_above_githubs_limit_is_refused(web: WebProcess) -> None:
    answer = github(web, b"{" + b" " * (25 * 1024 * 1024) + b"}")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_payload_that_has_been_deleted_is_shown_as_deleted(web: WebProcess) -> None:
    with pytest.raises(NonRetriable, match="the payload github-1 has been deleted"):
        read_payload("github-1")


def test_a_webhook_may_not_ask_for_larger_bodies_than_there_is_room_for() -> None:
    with pytest.raises(InvalidOption, match="25 MiB"):
        Webhook(
            "shop",
            BodyHmac("SHOP_SECRET"),
            lambda incoming: [],
            "Orders.",
            max_bytes=26 * 1024 * 1024,
        )


def stripe(
    web: WebProcess, body: bytes, at: float, secret: str = "stripe-secret"
) -> httpx.Response:
    mac = hmac.new(secret.encode(), f"{int(at)}.".encode() + body, sha256).hexdigest()
    return httpx.post(
        f"{web.url}/webhooks/stripe",
        content=body,
        headers={"Stripe-Signature": f"t={int(at)},v1={'0' * 64},v1={mac},v0=old"},
    )


def test_an_event_of_stripe_is_checked_by_its_own_scheme(web: WebProcess) -> None:
    body = json.dumps(
        {
            "id": "evt_1",
            "type": "invoice.paid",
            "created": 1_780_000_000,
            "data": {"object": {"id": "in_1", "total": 500}},
        }
    ).encode()
    [event_id] = stripe(web, body, time.time()).json()["ids"]
    event = web.get(f"/api/events/{event_id}").json()
    assert (event["name"], event["data"], event["ts"]) == (
        "stripe/invoice.paid",
        {"id": "in_1", "total": 500},
        1_780_000_000_000,
    )
    assert stripe(web, body, time.time() - 400).status_code == 401
    assert stripe(web, body, time.time(), "another").status_code == 401
    broken = stripe(web, b'{"type": "x"}', time.time())
    assert (broken.status_code, broken.json()["code"]) == (400, "invalid_body")
    assert count() == 1


def test_a_thin_event_of_stripe_is_taken_as_it_came(web: WebProcess) -> None:
    event = {
        "id": "evt_test_65",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "livemode": False,
        "created": "2026-05-28T20:26:40.250Z",
        "related_object": {
            "id": "mtr_1",
            "type": "billing.meter",
            "url": "/v1/billing/meters/mtr_1",
        },
    }
    for thin in (event, {key: value for key, value in event.items() if key != "object"}):
        answer = stripe(web, json.dumps(thin).encode(), time.time())
        assert answer.status_code == 200, answer.text
    kept = web.get(f"/api/events/{answer.json()['ids'][0]}").json()
    assert (kept["name"], kept["data"], kept["ts"]) == (
        "stripe/v1.billing.meter.error_report_triggered",
        event,
        1_780_000_000_250,
    )
    assert count() == 1


def test_an_event_of_stripe_that_is_too_large_is_kept_beside_its_event(web: WebProcess) -> None:
    invoice = {"id": "in_1", "lines": ["x" * 100] * 6000}
    body = json.dumps(
        {
            "id": "evt_2",
            "type": "invoice.paid",
            "created": 1_780_000_000,
            "data": {"object": invoice},
        }
    ).encode()
    answer = stripe(web, body, time.time())
    data = web.get(f"/api/events/{answer.json()['ids'][0]}").json()["data"]
    assert (data["id"], data["truncated"], read_payload(data["payload_ref"])) == (
        "in_1",
        ["lines"],
        invoice,
    )


def test_an_undeclared_webhook_is_404(web: WebProcess) -> None:
    answer = web.post("/webhooks/nobody", {}, None)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
