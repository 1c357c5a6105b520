"""Authentication: keys, scopes, environments, rate limits, signatures."""

import base64
import hmac
import json
import subprocess
import sys
import time
from hashlib import sha256

import httpx
import pytest

from runyard import InvalidOption, RunyardError
from runyard.engine import api_keys
from runyard.store import database
from tests.conftest import ROOT, wait_until
from tests.http.conftest import SIGNING_SECRET
from tests.web_process import WebProcess, count

EVENT = {"name": "greet/requested", "data": {"who": "Ada"}}
READS = ["/api/events", "/api/functions", "/v1/events", "/metrics", "/api/bulk"]
MANAGES = [
    "/api/events/1/replay",
    "/api/invocations/1/cancel",
    "/api/bulk/cancel",
    "/api/functions/greet/pause",
]


def test_only_the_hash_of_a_key_is_stored(web: WebProcess) -> None:
    key_id, made = api_keys.create("hashed", ["send"])
    with database.connection() as connection:
        row = connection.execute("SELECT * FROM runyard.keys WHERE id = %s", (key_id,)).fetchone()
    assert row is not None
    assert row["hash"] == sha256(made.encode()).digest()
    assert made not in str(row)
    assert len(made) - len(str(row["hint"])) >= 32


@pytest.mark.parametrize("key", ["wrong", "a" * 500, "ry_test_" + "x" * 43, "%00", "é"])
def test_a_wrong_key_is_refused_and_learns_nothing(web: WebProcess, key: str) -> None:
    answer = httpx.post(f"{web.url}/e/{key}", json=EVENT)
    assert answer.status_code == 401
    assert {**answer.json(), "request_id": ""} == {
        "status": 401,
        "code": "unauthorized",
        "error": "Event key not found",
        "request_id": "",
        "ids": [],
    }
    bearer = httpx.get(f"{web.url}/api/events", headers={"Authorization": f"Bearer {key}".encode()})
    assert bearer.status_code == 401
    assert bearer.headers["www-authenticate"] == "Bearer"
    assert count() == 0


@pytest.mark.parametrize("path", READS)
def test_reading_needs_a_key_that_may_read(web: WebProcess, path: str) -> None:
    assert web.get(path, None).status_code == 401
    assert web.get(path, "send").status_code == 403
    assert web.get(path, "read").status_code == 200


@pytest.mark.parametrize("path", MANAGES)
def test_managing_needs_a_key_that_may_manage(web: WebProcess, path: str) -> None:
    assert web.post(path, {}, None).status_code == 401
    assert web.post(path, {}, "read").status_code == 403
    assert web.post(path, {}, "manage").status_code in (200, 400, 404)


def test_sending_needs_a_key_that_may_send(web: WebProcess) -> None:
    assert httpx.post(f"{web.url}/e/{web.keys['read']}", json=EVENT).status_code == 403
    assert httpx.post(f"{web.url}/e/{web.keys['send']}", json=EVENT).status_code == 200
    assert web.post("/api/events", EVENT, "send").status_code == 200
    assert (
        web.post("/api/events", EVENT, None, headers={"apikey": web.keys["send"]}).status_code
        == 200
    )


def test_a_revoked_key_is_refused_a_second_later(web: WebProcess) -> None:
    key_id, made = api_keys.create("short-lived", ["send"])
    assert httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 200  # a new one at once
    api_keys.revoke(key_id)
    wait_until(lambda: httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 401, 10)


def test_a_key_ends_by_itself(web: WebProcess) -> None:
    from datetime import UTC, datetime, timedelta

    made = api_keys.create("ending", ["send"], expires_at=datetime.now(UTC) + timedelta(seconds=5))[
        1
    ]
    assert httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 200
    wait_until(lambda: httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 401, 15)


def test_a_key_of_another_environment_is_not_known_here(
    web: WebProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runyard.settings import settings

    monkeypatch.setenv("RUNYARD_ENVIRONMENT", "staging")
    settings.cache_clear()
    made = api_keys.create("elsewhere", ["send"])[1]
    monkeypatch.undo()
    settings.cache_clear()
    assert httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 401


def test_a_key_for_some_events_may_send_no_others(web: WebProcess) -> None:
    made = api_keys.create("form", ["send"], events=["contact/*"], per_second=1000)[1]
    refused = httpx.post(
        f"{web.url}/e/{made}",
        json=[
            {
                "name": "contact/submitted",
                "data": {"name": "a", "email": "a@example.com", "message": "x"},
            },
            EVENT,
        ],
    )
    assert refused.status_code == 403
    assert "contact/*" in refused.json()["error"]
    assert count() == 0
    contact = {"name": "Grace", "email": "grace@example.com", "message": "Hi"}
    bearer = {"Authorization": f"Bearer {made}"}
    assert (
        httpx.post(
            f"{web.url}/functions/v1/contact-notification", json=contact, headers=bearer
        ).status_code
        == 202
    )
    assert (
        httpx.post(
            f"{web.url}/functions/v1/send-email",
            json={"to": "a@example.com", "subject": "x", "text": "y"},
            headers=bearer,
        ).status_code
        == 403
    )
    assert (
        httpx.post(
            f"{web.url}/functions/v1/gemini", json={"prompt": "x"}, headers=bearer
        ).status_code
        == 403
    )
    assert (
        httpx.post(
            f"{web.url}/api/inngest/trigger", json={"function": "greet"}, headers=bearer
        ).status_code
        == 404
    )
    assert count() == 1


def test_a_rate_limited_key_learns_when_to_retry(web: WebProcess) -> None:
    made = api_keys.create("slow", ["send"], per_second=2)[1]
    answers = [httpx.post(f"{web.url}/e/{made}", json=EVENT) for _ in range(12)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert min(int(answer.headers["retry-after"]) for answer in refused) >= 1
    assert count() == sum(answer.status_code == 200 for answer in answers)
    wait_until(lambda: httpx.post(f"{web.url}/e/{made}", json=EVENT).status_code == 200, 10)


def signed(body: bytes, secret: str, at: float | None = None) -> dict[str, str]:
    """Headers of the Standard Webhooks specification."""
    timestamp = str(int(time.time() if at is None else at))
    key = (
        base64.b64decode(secret.removeprefix("whsec_"))
        if secret.startswith("whsec_")
        else secret.encode()
    )
    mac = base64.b64encode(
        hmac.new(key, b"msg_1." + timestamp.encode() + b"." + body, sha256).digest()
    ).decode()
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1a,other v1,{mac}",
    }


@pytest.mark.parametrize("path", ["/api/events", "/api/inngest"])
@pytest.mark.parametrize("secret", [SIGNING_SECRET, "old-secret-of-the-tests"])
def test_a_signed_post_needs_no_key(web: WebProcess, path: str, secret: str) -> None:
    body = json.dumps([EVENT, EVENT]).encode()
    answer = web.post(path, key=None, content=body, headers=signed(body, secret))
    assert answer.status_code == 200
    assert len(answer.json()["ids"]) == count() == 2


def test_a_signature_that_is_wrong_old_or_over_another_body_is_refused(web: WebProcess) -> None:
    body = json.dumps(EVENT).encode()
    for headers in (
        signed(body, "another-secret"),
        signed(b"{}", SIGNING_SECRET),
        signed(body, SIGNING_SECRET, time.time() - 310),
        signed(body, SIGNING_SECRET, time.time() + 310),
        {**signed(body, SIGNING_SECRET), "webhook-timestamp": "soon"},
        {**signed(body, SIGNING_SECRET), "webhook-signature": "v1,"},
    ):
        answer = web.post("/api/events", key=None, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    assert (
        web.post(
            "/e/none", key=None, content=body, headers=signed(body, SIGNING_SECRET)
        ).status_code
        == 401
    )  # the event API accepts keys only
    assert count() == 0


def test_no_key_header_or_body_is_in_the_log(web: WebProcess) -> None:
    secret = "a-very-private-value"
    web.send({"name": "greet/requested", "data": {"x": secret}})
    httpx.post(f"{web.url}/e/{secret}", json=EVENT)
    web.get("/api/events", headers={"Cookie": secret})
    answer = web.get("/api/events", headers={"X-Request-Id": "my-request-1"})
    assert answer.headers["x-request-id"] == "my-request-1"
    wait_until(lambda: "GET /api/events 200" in web.log() and "my-request-1" in web.log())
    assert not [
        line
        for line in web.log().splitlines()
        if secret in line or any(key in line for key in web.keys.values())
    ]


def test_a_request_id_that_could_forge_a_line_is_replaced(web: WebProcess) -> None:
    answer = web.get("/healthz", None, headers={"X-Request-Id": "a b"})
    assert answer.headers["x-request-id"] not in ("a b", "")


def command(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runyard", "keys", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        input=stdin,
    )


def test_keys_are_created_listed_and_revoked_by_command(web: WebProcess) -> None:
    made = command(
        "create",
        "web shop",
        "--scope",
        "send",
        "--event",
        "order/*",
        "--rate",
        "50",
        "--expires-in",
        "90d",
    )
    key = made.stdout.strip()
    assert made.returncode == 0
    assert key.startswith("ry_test_")
    assert key not in made.stderr
    listed = next(line for line in command("list").stdout.splitlines() if "web shop" in line)
    assert key not in listed
    assert key[:12] in listed
    assert "order/*" in listed
    assert "valid" in listed
    assert "never used" in listed
    assert command("revoke", "web shop").stdout == "web shop is revoked.\n"
    assert "REVOKED" in command("list").stdout
    again = command("revoke", "web shop")
    assert again.returncode == 1
    assert "runyard keys list" in again.stderr


def test_a_key_that_a_client_has_already_is_taken(web: WebProcess) -> None:
    given = "inngest-event-key-of-the-old-system"
    assert (
        command(
            "create", "old clients", "--scope", "send", "--stdin", stdin=f"{given}\n"
        ).returncode
        == 0
    )
    assert httpx.post(f"{web.url}/e/{given}", json=EVENT).status_code == 200
    twice = command("create", "again", "--scope", "send", "--stdin", stdin=f"{given}\n")
    assert twice.returncode == 1
    assert "it exists already" in twice.stderr


def test_a_wrong_key_option_says_what_to_do(web: WebProcess) -> None:
    for name, scopes, more, says in [
        ("", ["send"], {}, "name"),
        ("x", [], {}, "scope"),
        ("x", ["sned"], {}, "send, read, manage"),
        ("x", ["send"], {"key": "short"}, "16"),
        ("x", ["send"], {"key": "a key with spaces in it"}, "letters"),
        ("x", ["send"], {"per_second": 0}, "more than 0"),
        ("x", ["send"], {"per_second": float("nan")}, "more than 0"),
    ]:
        with pytest.raises(InvalidOption, match=says):
            api_keys.create(name, scopes, **more)  # type: ignore[arg-type]
    with pytest.raises(RunyardError, match="no key"):
        api_keys.revoke("nobody's")


def test_the_use_of_a_key_is_noted(web: WebProcess) -> None:
    key_id, made = api_keys.create("used", ["send"])
    httpx.post(f"{web.url}/e/{made}", json=EVENT)
    with database.connection() as connection:
        connection.execute("UPDATE runyard.keys SET used_at = NULL WHERE id = %s", (key_id,))

    def used() -> bool:
        httpx.post(f"{web.url}/e/{made}", json=EVENT)
        return any(row["id"] == key_id and row["used_at"] for row in api_keys.listed())

    wait_until(used, 10)


def test_the_public_side_does_not_start_without_a_key(
    server: str, web: WebProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_ENVIRONMENT", "nobody-has-one")
    done = subprocess.run(
        [sys.executable, "-m", "runyard", "web", "--api-only"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 1
    assert "runyard keys create" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
