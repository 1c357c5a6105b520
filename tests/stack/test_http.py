"""The HTTP API with the whole stack: outcomes, streams, edge functions, metrics, Dagster UI."""

import json
import time
from typing import Any

import httpx
import pytest

from tests.fake_sendgrid import FakeSendGrid
from tests.stack.conftest import address

pytestmark = pytest.mark.usefixtures("stack")


def post(path: str, body: Any) -> httpx.Response:
    return httpx.post(address(path), json=body, timeout=40)


def test_a_triggered_event_is_answered_with_its_outcome(sendgrid: FakeSendGrid) -> None:
    answer = post(
        "/api/inngest/trigger?wait=30",
        {
            "event": "email/send.requested",
            "data": {"to": "waited@example.com", "subject": "Hi", "text": "Hello"},
        },
    )
    assert answer.status_code == 200
    assert answer.json()["done"]
    [invocation] = answer.json()["invocations"]
    assert (invocation["status"], invocation["output"]["status"]) == ("succeeded", "sent")
    assert [step["step"] for step in invocation["steps"]] == [
        "prepare-email",
        "record-message",
        "send-via-sendgrid",
        "track-delivery",
    ]
    assert len(sendgrid.to("waited@example.com")) == 1


def test_a_function_that_fails_is_answered_with_its_error() -> None:
    answer = post("/api/inngest/trigger?wait=30", {"function": "steps", "data": {"final": True}})
    [invocation] = answer.json()["invocations"]
    assert answer.status_code == 200
    assert invocation["status"] == "failed"
    assert invocation["error"]["message"] == "this can never work"


def test_a_function_that_the_clock_starts_can_be_triggered_too() -> None:
    listed = httpx.get(address("/api/functions"), timeout=10).json()["functions"]
    clocked = next(found["name"] for found in listed if found["triggers"] == [] and found["active"])
    answer = post("/api/inngest/trigger?wait=30", {"function": clocked})
    assert answer.status_code == 200
    assert [found["function"] for found in answer.json()["invocations"]] == [clocked]


def test_the_stream_follows_a_run() -> None:
    [event_id] = post(
        "/api/inngest/trigger", {"function": "steps", "data": {"n": 1, "seconds": 1}}
    ).json()["ids"]
    [invocation] = httpx.get(address(f"/api/events/{event_id}/invocations"), timeout=10).json()[
        "invocations"
    ]
    found: list[tuple[str, Any, float]] = []
    with httpx.stream(
        "GET", address(f"/api/invocations/{invocation['id']}/stream"), timeout=30
    ) as stream:
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: ")), time.monotonic()))
    names = [name for name, _, _ in found]
    assert names[-2:] == ["status", "done"]
    assert names.count("step") == 3
    assert found[-2][1]["status"] == "succeeded"
    [(_, progress, seen)] = [message for message in found if message[0] == "progress"]
    assert (progress["step"], progress["percent"], progress["text"]) == ("second", 50, "half of it")
    assert found[-1][2] - seen > 0.7  # it arrived while the step was running


def test_the_edge_functions_do_their_work(sendgrid: FakeSendGrid) -> None:
    mail = post(
        "/functions/v1/send-email?wait=30",
        {"to": ["edge@example.com"], "template": "welcome", "data": {"name": "Ada"}},
    )
    assert mail.status_code == 200
    assert mail.json()["invocations"][0]["status"] == "succeeded"
    assert len(sendgrid.to("edge@example.com")) == 1
    contact = post(
        "/functions/v1/contact-notification?wait=30",
        {"name": "Grace", "email": "grace@example.com", "message": "Do you ship?"},
    )
    assert contact.json()["invocations"][0]["status"] == "succeeded"
    mail_id, _ = contact.json()["invocations"][0]["output"]
    deadline = time.monotonic() + 20
    while not sendgrid.to("staff@example.com") and time.monotonic() < deadline:
        time.sleep(0.1)
    [told] = sendgrid.to("staff@example.com")
    assert told["reply_to"]["email"] == "grace@example.com"
    assert "Do you ship?" in told["content"][0]["value"]
    assert (
        httpx.get(address(f"/api/events/{mail_id}"), timeout=10).json()["caused_by"]
        == contact.json()["invocations"][0]["id"]
    )
    text = post("/functions/v1/gemini?wait=30", {"prompt": "queues", "background": True})
    assert text.status_code == 200
    assert text.json()["invocations"][0]["output"]["offline"] is True


def test_metrics_tell_of_requests_queues_and_workers() -> None:
    post("/e/any", {"name": "test/steps", "data": {}, "ts": int(time.time() * 1000) + 3_600_000})
    lines = httpx.get(address("/metrics"), timeout=10).text.splitlines()
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }
    assert values['runyard_http_requests_total{endpoint="POST /e/{key}",status="200"}'] >= 1
    assert values["runyard_http_events_total"] >= 1
    assert values['runyard_invocations{function="steps",status="queued"}'] >= 1
    assert (
        sum(value for name, value in values.items() if name.startswith("runyard_worker_slots")) == 2
    )
    assert "any" not in "".join(line for line in lines if "/e/" in line)


def test_under_our_paths_nothing_falls_through_to_the_dagster_ui() -> None:
    for path in (
        "/api/nothing",
        "/v1/nothing",
        "/e/a/b",
        "/functions/v1/nobody",
        "/webhooks/nobody",
    ):
        answer = httpx.post(address(path), json={}, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert httpx.delete(address("/api/events"), timeout=10).json()["code"] == "method_not_allowed"
    assert "Dagster" in httpx.get(address("/jobs"), timeout=10).text
