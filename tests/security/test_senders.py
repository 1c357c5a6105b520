"""A key sees no other key's ids, outcomes or history, and nothing at all once it is revoked."""

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import runyard
from runyard import clock
from runyard.engine import api_keys
from runyard.errors import DatabaseUnavailable
from runyard.gateway.http import auth
from runyard.gateway.http.auth import Authenticator
from runyard.gateway.http.errors import HttpError
from runyard.settings import settings
from runyard.store import database
from tests.conftest import wait_until
from tests.security.conftest import GITHUB_SECRET, SIGNING_SECRET, STRIPE_SECRET
from tests.web_process import WebProcess, count

MAIL = {"to": "ada@example.com", "subject": "Private", "text": "For Ada alone"}
CONTACT = {"name": "Eve", "email": "eve@example.com", "message": "Hi"}


def key(*scopes: str, **more: Any) -> str:
    """A new key."""
    return api_keys.create("a test's", scopes or ["send"], per_second=100_000, **more)[1]


def as_key(given: str) -> dict[str, str]:
    """The header with this key."""
    return {"Authorization": f"Bearer {given}"}


def post(
    web: WebProcess, given: str, event: dict[str, Any], path: str = "/api/events", **query: str
) -> httpx.Response:
    """Send an event with a key."""
    return httpx.post(web.url + path, json=event, headers=as_key(given), params=query, timeout=30)


def seed_header() -> dict[str, str]:
    """A header of Inngest's SDKs from which ids are derived."""
    entropy = base64.b64encode(b"0123456789").decode()
    return {"x-inngest-event-id-seed": f"{int(time.time() * 1000)},{entropy}"}


@pytest.fixture
def mailer(web: WebProcess) -> str:
    """A key that may send everything."""
    return key("send")


@pytest.fixture
def form(web: WebProcess) -> str:
    """A key for contact forms alone."""
    return key("send", "read", "manage", events=["contact/*"])


def test_the_same_id_of_two_keys_is_two_events(web: WebProcess) -> None:
    event = {"name": "greet/requested", "id": "order-1"}
    first, second = (post(web, key(), event).json()["ids"] for _ in range(2))
    assert first != second
    assert (count(), count("runyard.invocations")) == (2, 2)


def test_the_same_id_of_one_key_is_one_event(web: WebProcess, mailer: str) -> None:
    event = {"name": "greet/requested", "id": "order-1"}
    assert post(web, mailer, event).json() == post(web, mailer, event).json()
    assert count() == 1


def test_the_same_id_under_another_name_is_another_event(web: WebProcess, mailer: str) -> None:
    ids = {
        post(web, mailer, {"name": name, "id": "order-1"}).json()["ids"][0]
        for name in ("greet/requested", "order/paid")
    }
    assert len(ids) == 2


def test_keys_of_one_tenant_share_their_ids(web: WebProcess) -> None:
    event = {"name": "greet/requested", "id": "order-1"}
    old, new = key(tenant="shop"), key(tenant="shop")
    assert post(web, old, event).json()["ids"] == post(web, new, event).json()["ids"]


def test_tenants_do_not(web: WebProcess) -> None:
    event = {"name": "greet/requested", "id": "order-1"}
    assert (
        post(web, key(tenant="shop"), event).json()["ids"]
        != post(web, key(tenant="office"), event).json()["ids"]
    )


def test_no_tenant_can_take_the_place_of_a_key(web: WebProcess) -> None:
    key_id, made = api_keys.create("x", ["send"])
    event = {"name": "greet/requested", "id": "order-1"}
    assert (
        post(web, made, event).json()["ids"]
        != post(web, key(tenant=f"key {key_id}"), event).json()["ids"]
    )


def test_a_key_cannot_take_an_id_away_from_the_application_itself(
    web: WebProcess, mailer: str
) -> None:
    taken = post(web, mailer, {"name": "greet/requested", "id": "order-1"}).json()["ids"]
    assert runyard.send("greet/requested", {}, id="order-1") != taken
    assert count("runyard.invocations") == 2


def test_the_outcome_of_another_keys_event_is_not_revealed(
    web: WebProcess, mailer: str, form: str
) -> None:
    [theirs] = post(
        web, mailer, {"name": "email/send.requested", "data": MAIL, "id": "mail-1"}
    ).json()["ids"]
    answer = post(web, form, {**CONTACT}, "/functions/v1/contact-notification", wait="0.1")
    assert theirs not in answer.text
    answer = post(
        web,
        form,
        {"event": "contact/submitted", "data": CONTACT, "id": "mail-1"},
        "/api/inngest/trigger",
        wait="0.1",
    )
    assert theirs not in answer.text
    assert "Ada" not in answer.text
    assert len(answer.json()["invocations"]) == 1


def test_an_id_derived_from_a_seed_cannot_be_another_senders(
    web: WebProcess, mailer: str, form: str
) -> None:
    seed = seed_header()
    sent = httpx.post(
        f"{web.url}/api/events",
        json={"name": "greet/requested"},
        headers={**as_key(mailer), **seed},
    )
    squatted = httpx.post(
        f"{web.url}/api/events",
        json={"name": "contact/submitted", "data": CONTACT},
        headers={**as_key(form), **seed},
    )
    again = httpx.post(
        f"{web.url}/api/events",
        json={"name": "greet/requested"},
        headers={**as_key(mailer), **seed},
    )
    assert (sent.status_code, squatted.status_code, again.json()) == (200, 400, sent.json())
    assert sent.json()["ids"][0] not in squatted.text
    assert count() == 1


def test_one_request_with_another_senders_id_fails_none_that_came_with_it(
    web: WebProcess, mailer: str, form: str
) -> None:
    seed = seed_header()
    httpx.post(
        f"{web.url}/api/events",
        json={"name": "greet/requested"},
        headers={**as_key(mailer), **seed},
    )

    async def together() -> list[int]:
        async with httpx.AsyncClient(base_url=web.url) as client:
            wrong = [
                client.post(
                    "/api/events",
                    json={"name": "contact/submitted", "data": CONTACT},
                    headers={**as_key(form), **seed},
                )
                for _ in range(5)
            ]
            right = [
                client.post("/api/events", json={"name": "greet/requested"}, headers=as_key(mailer))
                for _ in range(20)
            ]
            return [answer.status_code for answer in await asyncio.gather(*wrong, *right)]

    assert asyncio.run(together()) == [400] * 5 + [200] * 20
    assert count() == 21


def test_a_key_of_an_id_is_free_again_after_a_day(web: WebProcess, mailer: str) -> None:
    event = {"name": "greet/requested", "id": "order-1"}
    first = post(web, mailer, event).json()
    other = post(web, key(), event).json()
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.events SET received_at = received_at - interval '25 hours'"
        )
    assert post(web, mailer, event).json() not in (first, other)
    with database.connection() as connection:
        left = connection.execute(
            "SELECT id FROM runyard.events WHERE idempotency_key IS NOT NULL ORDER BY id"
        ).fetchall()
    assert len(left) == 2  # the new one, and the other sender's, which this one must not release


# A key that is restricted to some events cannot tell that there are others.


@pytest.fixture
def theirs(mailer: str, web: WebProcess) -> tuple[str, int]:
    """A mail of another key: the ids of its event and invocation."""
    [event] = post(web, mailer, {"name": "email/send.requested", "data": MAIL}).json()["ids"]
    with database.connection() as connection:
        row = connection.execute(
            "SELECT id FROM runyard.invocations WHERE event_id = %s", (event,)
        ).fetchone()
    assert row is not None
    return event, int(str(row["id"]))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/events/{event}"),
        ("GET", "/api/events/{event}/invocations"),
        ("GET", "/api/invocations/{invocation}"),
        ("GET", "/api/invocations/{invocation}/stream"),
        ("GET", "/v1/events/{event}"),
        ("GET", "/v1/events/{event}/runs"),
        ("GET", "/v1/runs/{invocation}"),
        ("DELETE", "/v1/runs/{invocation}"),
        ("POST", "/api/events/{event}/replay"),
        ("POST", "/api/invocations/{invocation}/replay"),
        ("POST", "/api/invocations/{invocation}/cancel"),
        ("POST", "/api/invocations/{invocation}/run-now"),
    ],
)
def test_what_a_key_is_not_for_is_not_there(
    web: WebProcess, form: str, theirs: tuple[str, int], method: str, path: str
) -> None:
    event, invocation = theirs
    given = path.format(event=event, invocation=invocation)
    answer = httpx.request(
        method, web.url + given, json={} if method == "POST" else None, headers=as_key(form)
    )
    assert answer.status_code == 404
    assert "Ada" not in answer.text
    missing = httpx.request(
        method,
        web.url + path.format(event="0" * 26, invocation=10**9),
        json={} if method == "POST" else None,
        headers=as_key(form),
    )
    assert (missing.status_code, missing.json()["code"]) == (404, answer.json()["code"])


@pytest.mark.parametrize(
    "path", ["/api/events", "/v1/events", "/api/invocations?function=send_email"]
)
def test_lists_leave_out_what_a_key_is_not_for(
    web: WebProcess, form: str, theirs: tuple[str, int], path: str
) -> None:
    own = post(web, form, {"name": "contact/submitted", "data": CONTACT}).json()["ids"][0]
    answer = httpx.get(web.url + path, headers=as_key(form))
    assert answer.status_code == 200
    assert theirs[0] not in answer.text
    assert (own in answer.text) is ("events" in path)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/bulk/cancel", {"function": "send_email"}),
        ("POST", "/api/bulk/replay", {"function": "send_email", "dry_run": True}),
        ("POST", "/api/bulk/dismiss", {"function": "send_email"}),
        ("GET", "/api/bulk", None),
        ("GET", "/api/bulk/1", None),
        ("POST", "/api/bulk/1/resume", {}),
        (
            "POST",
            "/v1/cancellations",
            {"function_id": "send_email", "started_before": "2030-01-01T00:00:00Z"},
        ),
        ("POST", "/api/functions/send_email/pause", {}),
        ("POST", "/api/functions/send_email/resume", {}),
    ],
)
def test_what_is_about_all_events_is_not_for_a_key_of_some(
    web: WebProcess, form: str, theirs: tuple[str, int], method: str, path: str, body: Any
) -> None:
    answer = httpx.request(method, web.url + path, json=body, headers=as_key(form))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_metrics_are_about_all_events(web: WebProcess, form: str) -> None:
    assert httpx.get(f"{web.url}/metrics", headers=as_key(form)).status_code == 403


def test_of_functions_a_key_is_shown_those_that_its_events_start(
    web: WebProcess, form: str
) -> None:
    names = [
        function["name"]
        for function in httpx.get(f"{web.url}/api/functions", headers=as_key(form)).json()[
            "functions"
        ]
    ]
    assert names == ["notify_contact"]


def test_a_function_that_a_key_is_not_for_looks_like_none(web: WebProcess, form: str) -> None:
    refused, missing = (
        post(web, form, {"function": name}, "/api/inngest/trigger").json()
        for name in ("send_email", "no_such_function")
    )
    assert refused["error"].replace("send_email", "") == missing["error"].replace(
        "no_such_function", ""
    )


def test_a_cursor_reveals_nothing_of_another_keys_event(
    web: WebProcess, form: str, theirs: tuple[str, int]
) -> None:
    assert (
        httpx.get(f"{web.url}/v1/events?cursor={theirs[0]}", headers=as_key(form)).status_code
        == 400
    )


def test_the_event_api_takes_a_key_in_a_header_too(web: WebProcess, mailer: str) -> None:
    assert post(web, mailer, {"name": "greet/requested"}, "/e/dev").status_code == 200


def test_the_dev_page_is_for_keys_of_all_events(web: WebProcess, form: str) -> None:
    assert httpx.get(f"{web.url}/dev", headers=as_key(form)).status_code == 403


def test_patterns_with_signs_of_sql_mean_themselves(web: WebProcess) -> None:
    made = key("send", "read", events=["a_b/%", "c\\d/*"])
    for name in ("a_b/%", "axb/y", "c\\d/e", "cd/e"):
        runyard.send(name)
    names = {
        event["name"]
        for event in httpx.get(f"{web.url}/api/events", headers=as_key(made)).json()["events"]
    }
    assert names == {"a_b/%", "c\\d/e"}


# A signed message that is sent again.


def signed(body: bytes, message: str = "msg_1") -> dict[str, str]:
    """The headers of the Standard Webhooks specification."""
    timestamp = str(int(time.time()))
    secret = base64.b64decode(SIGNING_SECRET.removeprefix("whsec_"))
    mac = base64.b64encode(
        hmac.new(secret, f"{message}.{timestamp}.".encode() + body, sha256).digest()
    ).decode()
    return {"webhook-id": message, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{mac}"}


@pytest.mark.parametrize("path", ["/api/events", "/api/inngest"])
def test_the_same_signed_post_twice_is_the_same_events(web: WebProcess, path: str) -> None:
    body = json.dumps(
        [{"name": "greet/requested"}, {"name": "greet/requested"}, {"name": "order/paid"}]
    ).encode()
    first, second = (
        httpx.post(web.url + path, content=body, headers=headers).json()["ids"]
        for headers in [signed(body)] * 2
    )
    assert first == second
    assert len(set(first)) == count() == 3


def test_a_signed_post_that_is_signed_again_with_its_id_is_the_same(web: WebProcess) -> None:
    bodies = [json.dumps({"name": "greet/requested", "data": {"n": 1}}).encode()] * 2
    ids = [
        httpx.post(f"{web.url}/api/events", content=body, headers=signed(body)).json()["ids"]
        for body in bodies
    ]
    assert ids[0] == ids[1]


def test_two_messages_are_two_events(web: WebProcess) -> None:
    body = json.dumps({"name": "greet/requested"}).encode()
    for message in ("msg_1", "msg_2"):
        httpx.post(f"{web.url}/api/events", content=body, headers=signed(body, message))
    assert count() == 2


def test_an_event_of_a_signed_post_keeps_its_own_id(web: WebProcess) -> None:
    body = json.dumps({"name": "greet/requested", "id": "order-1"}).encode()
    for message in ("msg_1", "msg_2"):
        assert (
            httpx.post(
                f"{web.url}/api/events", content=body, headers=signed(body, message)
            ).status_code
            == 200
        )
    assert count() == 1


@pytest.mark.parametrize("message", ["", "x" * 300])
def test_a_signed_post_needs_an_id_of_its_own(web: WebProcess, message: str) -> None:
    body = json.dumps({"name": "greet/requested"}).encode()
    assert (
        httpx.post(f"{web.url}/api/events", content=body, headers=signed(body, message)).status_code
        == 401
    )


def test_a_delivery_by_standard_webhooks_that_comes_again_is_the_same_events(
    web: WebProcess,
) -> None:
    body = json.dumps({"deals": [{"n": 1}, {"n": 2}]}).encode()
    first, second = (
        httpx.post(f"{web.url}/webhooks/crm", content=body, headers=signed(body)).json()["ids"]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == count() == 2


def delivered_by_github(web: WebProcess) -> Any:
    """A delivery of GitHub, always the same one."""
    body = b'{"zen": "x"}'
    mac = hmac.new(GITHUB_SECRET.encode(), body, sha256).hexdigest()
    headers = {
        "X-Hub-Signature-256": f"sha256={mac}",
        "X-GitHub-Event": "ping",
        "X-GitHub-Delivery": "72d3162e",
    }
    return httpx.post(f"{web.url}/webhooks/github", content=body, headers=headers).json()


def test_a_repeated_github_delivery_is_one_event(web: WebProcess) -> None:
    assert delivered_by_github(web) == delivered_by_github(web)
    assert count() == 1


def test_a_repeated_stripe_event_is_one_event(web: WebProcess) -> None:
    body = json.dumps(
        {
            "id": "evt_1",
            "type": "invoice.paid",
            "created": 1_780_000_000,
            "data": {"object": {"id": "in_1"}},
        }
    ).encode()

    def delivered() -> Any:
        at = str(int(time.time()))
        mac = hmac.new(STRIPE_SECRET.encode(), f"{at}.".encode() + body, sha256).hexdigest()
        return httpx.post(
            f"{web.url}/webhooks/stripe",
            content=body,
            headers={"Stripe-Signature": f"t={at},v1={mac}"},
        ).json()

    assert delivered() == delivered()
    assert count() == 1


def test_no_key_can_take_the_place_of_a_delivery(web: WebProcess, mailer: str) -> None:
    squatted = post(web, mailer, {"name": "github/ping", "id": "github-72d3162e"}).json()["ids"]
    assert delivered_by_github(web)["ids"] != squatted
    assert count() == 2


# Requests in progress when a key is revoked.


def lines(
    web: WebProcess, path: str, given: str, into: list[str], headers: dict[str, str]
) -> Iterator[str]:
    """The lines of a stream."""
    with httpx.stream(
        "GET", web.url + path, headers={**as_key(given), **headers}, timeout=30
    ) as answer:
        for line in answer.iter_lines():
            into.append(line)
            yield line


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/api/invocations/{invocation}/stream", {}), ("/dev", {"Accept": "text/event-stream"})],
)
def test_a_stream_ends_with_its_key(
    web: WebProcess, theirs: tuple[str, int], path: str, headers: dict[str, str]
) -> None:
    key_id, made = api_keys.create("watching", ["read"])
    heard: list[str] = []
    listener = threading.Thread(
        target=lambda: list(lines(web, path.format(invocation=theirs[1]), made, heard, headers))
    )
    listener.start()
    wait_until(lambda: any(line.startswith("data:") for line in heard))
    api_keys.revoke(key_id)
    listener.join(10)
    assert not listener.is_alive()


def test_an_answer_that_was_waited_for_is_not_given_to_a_revoked_key(web: WebProcess) -> None:
    key_id, made = api_keys.create("waiting", ["send"])
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            post(web, made, {"event": "greet/requested"}, "/api/inngest/trigger", wait="20")
        )
    )
    waiting.start()
    wait_until(lambda: count("runyard.invocations") == 1)
    api_keys.revoke(key_id)
    time.sleep(1.1)  # as long as a revoked key may still be accepted
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.invocations"
            " SET status = 'succeeded', output = '\"secret\"', finished_at = now()"
        )
    waiting.join(10)
    assert answers[0].status_code == 401
    assert "secret" not in answers[0].text


class Cut:
    """An authenticator that has read its keys, and is cut off from the database by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.authenticator = Authenticator(development=False)
        self._monkeypatch = monkeypatch

    async def cut(self) -> None:
        """Cut it off, and wait until it would read its keys again."""
        self._monkeypatch.setenv(
            "DATABASE_URL", "postgresql://127.0.0.1:1/nowhere?connect_timeout=1"
        )
        settings.cache_clear()
        database.close_pool()
        database.wait_for_connection(0.2)
        await asyncio.sleep(auth._FRESH_SECONDS + 0.1)

    async def accepts(self, key: str, *, in_outages: bool = False) -> bool:
        """Whether it accepts a request with a key."""
        headers = [(b"apikey", key.encode())]
        request = Request({"type": "http", "headers": headers, "path_params": {}, "client": None})
        try:
            await self.authenticator.authenticate(request, "read", in_outages=in_outages)
        except (HttpError, DatabaseUnavailable):
            return False
        return True


@pytest.fixture
def cut(security_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    """An authenticator to be cut off from the database."""
    yield Cut(monkeypatch)
    monkeypatch.undo()
    database.wait_for_connection(10)
    database.close_pool()
    settings.cache_clear()


def outcomes(cut: Cut, key: str, *, in_outages: bool = False) -> tuple[bool, bool]:
    """Whether a key is accepted before and after the cut."""

    async def asked() -> tuple[bool, bool]:
        before = await cut.accepts(key, in_outages=in_outages)
        await cut.cut()
        return before, await cut.accepts(key, in_outages=in_outages)

    return asyncio.run(asked())


def test_a_known_key_is_accepted_for_a_while_when_the_database_becomes_unavailable(
    cut: Cut,
) -> None:
    assert outcomes(cut, api_keys.create("steady", ["read"])[1]) == (True, True)


def test_a_known_key_is_not_accepted_for_ever_while_the_database_is_unavailable(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_UNREAD_SECONDS", 1.0)
    assert outcomes(cut, api_keys.create("perhaps revoked", ["read"])[1]) == (True, False)


def test_a_known_key_is_accepted_throughout_an_outage_where_that_is_told(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_UNREAD_SECONDS", 1.0)
    key = api_keys.create("monitoring", ["read"])[1]
    assert outcomes(cut, key, in_outages=True) == (True, True)


def test_a_key_that_expires_during_an_outage_is_not_accepted(cut: Cut) -> None:
    expiry = clock.now() + timedelta(seconds=3)
    key = api_keys.create("brief", ["read"], expires_at=expiry)[1]

    async def asked() -> tuple[bool, bool]:
        before = await cut.accepts(key, in_outages=True)
        await cut.cut()
        await asyncio.sleep((expiry - clock.now()).total_seconds())
        return before, await cut.accepts(key, in_outages=True)

    assert asyncio.run(asked()) == (True, False)


def stream_continues(cut: Cut) -> tuple[bool, bool]:
    """Whether the stream of a key continues before and after the cut."""
    key_id = api_keys.create("steady", ["read"])[0]
    [found] = [valid for valid in api_keys.valid() if valid.id == key_id]

    async def asked() -> tuple[bool, bool]:
        before = await cut.authenticator.is_still_valid(found)
        await cut.cut()
        return before, await cut.authenticator.is_still_valid(found)

    return asyncio.run(asked())


def test_a_stream_continues_for_a_while_when_the_database_becomes_unavailable(cut: Cut) -> None:
    assert stream_continues(cut) == (True, True)


def test_a_stream_ends_when_its_key_has_been_unknown_for_long(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_UNREAD_SECONDS", 1.0)
    assert stream_continues(cut) == (True, False)


def test_keys_say_whose_they_are(web: WebProcess) -> None:
    api_keys.create("of the shop", ["send"], tenant="shop")
    assert [row["tenant"] for row in api_keys.listed() if row["name"] == "of the shop"] == ["shop"]


def test_a_tenant_has_a_name_of_some_length(web: WebProcess) -> None:
    for wrong in (" ", "x" * 101):
        with pytest.raises(runyard.InvalidOption, match="tenant"):
            key(tenant=wrong)
