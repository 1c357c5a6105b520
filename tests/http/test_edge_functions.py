"""The edge functions: JSON for pages of allowed origins; Gemini as text, stream and job."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import wait_until
from tests.fake_gemini import PIECES, FakeGemini
from tests.http.conftest import ORIGIN
from tests.web_process import WebProcess, count

NAMES = ["send-email", "contact-notification", "gemini"]
BODIES: dict[str, dict[str, Any]] = {
    "send-email": {"to": "ada@example.com", "subject": "Hi", "text": "Hello"},
    "contact-notification": {
        "name": "Grace",
        "email": "grace@example.com",
        "message": "Do you ship?",
    },
    "gemini": {"prompt": "a haiku about queues"},
}


@pytest.fixture(autouse=True)
def fresh(gemini: FakeGemini) -> Iterator[None]:
    gemini.failures.clear()
    gemini.prompts.clear()
    yield
    gemini.failures.clear()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_a_listed_origin_may_call_after_a_preflight(web: WebProcess, name: str) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,apikey,content-type,x-client-info",
    }
    preflight = httpx.options(f"{web.url}/functions/v1/{name}", headers={"Origin": ORIGIN, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert {"authorization", "apikey", "content-type", "x-client-info"} <= set(
        preflight.headers["access-control-allow-headers"].replace(" ", "").split(",")
    )
    assert "access-control-allow-credentials" not in preflight.headers
    answer = web.post(f"/functions/v1/{name}", BODIES[name], headers={"Origin": ORIGIN})
    assert answer.status_code in (200, 202)
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("name", NAMES)
def test_a_page_of_another_origin_may_not(web: WebProcess, name: str) -> None:
    preflight = httpx.options(
        f"{web.url}/functions/v1/{name}",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    assert (
        "access-control-allow-origin"
        not in web.post(
            f"/functions/v1/{name}", BODIES[name], headers={"Origin": "https://evil.example"}
        ).headers
    )


def test_errors_can_be_read_by_the_page_too(web: WebProcess) -> None:
    answer = web.post("/functions/v1/send-email", {}, headers={"Origin": ORIGIN})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("name", "event"),
    [("send-email", "email/send.requested"), ("contact-notification", "contact/submitted")],
)
def test_mail_and_contact_are_enqueued_and_answered_202(
    web: WebProcess, name: str, event: str
) -> None:
    answer = web.post(f"/functions/v1/{name}", BODIES[name])
    assert answer.status_code == 202
    assert answer.json()["done"] is False
    [event_id] = answer.json()["ids"]
    assert web.get(f"/api/events/{event_id}").json()["name"] == event


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("send-email", {}, "to"),
        ("send-email", {"to": "nobody", "subject": "x", "text": "y"}, "to"),
        ("send-email", {**BODIES["send-email"], "subject": "a\r\nBcc: x@y.z"}, "subject"),
        ("contact-notification", {**BODIES["contact-notification"], "message": ""}, "message"),
        ("contact-notification", {**BODIES["contact-notification"], "x": 1}, "x"),
        ("gemini", {}, "prompt"),
        ("gemini", {"prompt": "x", "temperature": 3}, "temperature"),
        ("gemini", {"prompt": "x", "model": "../../v1/files"}, "model"),
        ("gemini", {"prompt": "x", "stream": True, "background": True}, None),
    ],
)
def test_a_wrong_body_is_refused_with_its_field(
    web: WebProcess, name: str, body: dict[str, Any], field: str | None, gemini: FakeGemini
) -> None:
    answer = web.post(f"/functions/v1/{name}", body)
    assert answer.status_code == 400
    assert answer.json().get("field") == field
    assert count() == 0
    assert gemini.prompts == []


def test_a_key_is_needed(web: WebProcess) -> None:
    for name in NAMES:
        assert web.post(f"/functions/v1/{name}", BODIES[name], None).status_code == 401
        assert web.post(
            f"/functions/v1/{name}", BODIES[name], None, headers={"apikey": web.keys["send"]}
        ).status_code in (200, 202)


def test_gemini_answers_with_its_text(web: WebProcess, gemini: FakeGemini) -> None:
    answer = web.post(
        "/functions/v1/gemini",
        {
            **BODIES["gemini"],
            "system": "be brief",
            "temperature": 0.5,
            "max_tokens": 50,
            "model": "gemini-2.5-pro",
        },
    )
    assert answer.status_code == 200
    assert answer.json() | {"seconds": 0} == {
        "text": "".join(PIECES),
        "provider": "gemini",
        "model": "gemini-2.5-pro",
        "finish_reason": "STOP",
        "prompt_tokens": 5,
        "output_tokens": 9,
        "offline": False,
        "cost": pytest.approx((5 * 1.25 + 9 * 10) / 1_000_000),
        "seconds": 0,
        "thinking_tokens": 0,
        "passed_over": [],
    }
    [asked] = gemini.prompts
    assert asked["model"] == "gemini-2.5-pro"
    assert asked["contents"][0]["parts"][0]["text"] == "a haiku about queues"
    assert asked["systemInstruction"]["parts"][0]["text"] == "be brief"
    assert asked["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 50}


def test_gemini_streams_piece_by_piece(web: WebProcess) -> None:
    times: list[float] = []
    found: list[tuple[str, Any]] = []
    headers = {"Authorization": f"Bearer {web.keys['send']}"}
    with httpx.stream(
        "POST",
        f"{web.url}/functions/v1/gemini",
        json={**BODIES["gemini"], "stream": True},
        headers=headers,
        timeout=20,
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = "message"
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                times.append(time.monotonic())
                found.append((name, json.loads(line.removeprefix("data: "))))
                name = "message"
    assert [data["text"] for name, data in found if name == "message"] == PIECES
    assert found[-1][0] == "done"
    assert found[-1][1]["text"] == "".join(PIECES)
    assert times[-1] - times[0] > 0.05  # it was streamed, not sent all at the end


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("quota", 503, "quota"),
        (500, 502, "provider"),
        (400, 502, "provider"),
        ("reset", 502, "provider"),
        ("garbage", 502, "provider"),
        ("blocked", 422, "refused"),
        ("cut", 502, "provider"),
    ],
)
def test_errors_of_gemini_are_reported_as_they_are(
    web: WebProcess, gemini: FakeGemini, failure: Any, status: int, code: str
) -> None:
    gemini.failures.append(failure)
    answer = web.post("/functions/v1/gemini", BODIES["gemini"])
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert gemini.key not in answer.text
    assert gemini.key not in web.log()
    if status == 503:
        seconds_to_reset = int(answer.headers["retry-after"])
        assert seconds_to_reset > 0
        time.sleep(seconds_to_reset + 0.1)  # as a client does that follows the header
    gemini.failures.append(failure)
    streamed = web.post("/functions/v1/gemini", {**BODIES["gemini"], "stream": True}).text
    assert "event: error" in streamed
    assert f'"code":"{code}"' in streamed
    if status == 503:
        # The next test needs an open provider.
        wait_until(lambda: web.post("/functions/v1/gemini", BODIES["gemini"]).status_code == 200)


def test_a_provider_that_is_not_switched_on_is_the_callers_mistake(web: WebProcess) -> None:
    answer = web.post("/functions/v1/gemini", {"prompt": "x", "provider": "openai"})
    assert (answer.status_code, answer.json()["field"]) == (400, "provider")


def test_gemini_in_the_background_is_an_event(web: WebProcess, gemini: FakeGemini) -> None:
    answer = web.post("/functions/v1/gemini", {**BODIES["gemini"], "background": True})
    assert answer.status_code == 202
    assert gemini.prompts == []
    event = web.get(f"/api/events/{answer.json()['ids'][0]}").json()
    assert (event["name"], event["data"]) == ("text/generate.requested", BODIES["gemini"])
