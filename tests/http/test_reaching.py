"""Steps that reach beyond their application: signals, and requests that are made from here."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from runyard import clock, send
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.testing import Invocation
from tests import remote_work
from tests.fake_service import FakeService
from tests.sdk_apps import JAVASCRIPT_VERSIONS, SdkApp
from tests.tables import rows

KEY = "sk-reach-0123456789abcdef"
OPENAI = {"choices": [{"message": {"content": "yes"}}], "usage": {"total_tokens": 14}}
SCRIPT = "reaching"
VARIABLES = {"REACH_KEY": KEY}
# The SDK for Python has neither signals nor `step.fetch`.
only_javascript = pytest.mark.parametrize("serving", JAVASCRIPT_VERSIONS, indirect=True)


@pytest.fixture
def service() -> Iterator[FakeService]:
    """The service that is asked."""
    with FakeService() as fake:
        yield fake


def freeze() -> None:
    """Stop the time."""
    clock.freeze(datetime.now(UTC))


def ran(event: str, **data: Any) -> Invocation:
    """Send an event, execute what is due, and return its invocation."""
    [id] = send(f"reach/{event}", data)
    remote_work.work()
    [row] = rows("SELECT id FROM runyard.invocations WHERE event_id = %s", id)
    return Invocation(row["id"])


def signalled(developing: str, signal: str, data: Any = None) -> httpx.Response:
    return httpx.post(f"{developing}/v1/signals", json={"signal": signal, "data": data})


def secrets_in_database(secret: str) -> list[str]:
    """The tables that hold a text."""
    tables = rows(
        "SELECT schemaname || '.' || quote_ident(tablename) AS name FROM pg_tables"
        " WHERE schemaname IN ('runyard', 'public', 'app')"
    )
    return [
        table["name"]
        for table in tables
        if rows(
            f"SELECT 1 FROM {table['name']} AS content WHERE content::text LIKE %s LIMIT 1",
            f"%{secret}%",
        )
    ]


@only_javascript
def test_a_wait_ends_with_its_signal(app: SdkApp, developing: str) -> None:
    first, second = ran("wait", signal="one"), ran("wait", signal="two")
    assert first.status == "waiting"
    assert second.status == "waiting"
    answer = signalled(developing, "two", {"n": 5})
    assert answer.status_code == 200
    assert list(answer.json()["data"]) == ["run_id"]
    remote_work.work()
    assert first.status == "waiting"
    assert second.status == "succeeded"
    assert second.output == {"signal": "two", "data": {"n": 5}}


@only_javascript
def test_a_signal_names_the_run_that_it_has_resumed(app: SdkApp, developing: str) -> None:
    made = ran("wait", signal="one")
    run = signalled(developing, "one").json()["data"]["run_id"]
    shown = httpx.get(f"{developing}/v1/runs/{run}").json()["data"]
    assert shown["run_id"] == str(made.id)


@only_javascript
def test_a_signal_for_which_nobody_waits_is_not_found(app: SdkApp, developing: str) -> None:
    answer = signalled(developing, "nobody")
    assert answer.status_code == 404
    assert answer.json()["error"] == "there is no step that waits for the signal nobody"


@only_javascript
def test_a_signal_is_used_up_by_the_first_wait(app: SdkApp, developing: str) -> None:
    ran("wait", signal="one")
    answers = [signalled(developing, "one").status_code for _ in range(2)]
    assert answers == [200, 404]


@only_javascript
def test_a_function_may_send_a_signal(app: SdkApp) -> None:
    made = ran("wait", signal="one")
    ran("send", signal="one", data="hello")
    assert made.output == {"signal": "one", "data": "hello"}


@only_javascript
def test_a_function_that_sends_a_signal_to_nobody_goes_on(app: SdkApp) -> None:
    assert ran("send", signal="nobody", data=1).status == "succeeded"


@only_javascript
def test_a_wait_for_a_signal_gives_nothing_once_its_time_is_over(
    app: SdkApp, developing: str
) -> None:
    freeze()
    made = ran("wait", signal="one", timeout="10m")
    remote_work.advance(minutes=11)
    assert made.status == "succeeded"
    assert made.output is None
    assert signalled(developing, "one").status_code == 404


@only_javascript
def test_a_second_wait_for_a_signal_fails_its_run(app: SdkApp, developing: str) -> None:
    first, second = ran("wait", signal="one"), ran("wait", signal="one")
    assert first.status == "waiting"
    assert second.status == "failed"
    assert second.error is not None
    assert second.error["message"] == "another run waits for this signal already"
    signalled(developing, "one", 1)
    remote_work.work()
    assert first.output == {"signal": "one", "data": 1}


@only_javascript
def test_a_second_wait_may_take_the_place_of_the_first(app: SdkApp, developing: str) -> None:
    first = ran("wait", signal="one")
    second = ran("wait", signal="one", conflict="replace")
    assert signalled(developing, "one", 1).status_code == 200
    remote_work.work()
    assert first.status == "waiting"
    assert second.status == "succeeded"
    freeze()
    remote_work.advance(hours=2)
    assert first.status == "succeeded"
    assert first.output is None


@only_javascript
def test_a_wait_whose_time_is_over_holds_no_signal(app: SdkApp) -> None:
    ran("wait", signal="one", timeout="10m")
    clock.freeze(datetime.now(UTC).replace(year=2100))
    [id] = send("reach/wait", {"signal": "one"})
    remote_work.work()
    [row] = rows("SELECT status FROM runyard.invocations WHERE event_id = %s", id)
    assert row["status"] == "waiting"


@only_javascript
def test_a_cancelled_run_waits_for_no_signal(app: SdkApp, developing: str) -> None:
    made = ran("wait", signal="one")
    cancel(Selection(invocations=(made.id,)))
    assert signalled(developing, "one").status_code == 404


@only_javascript
def test_the_page_says_which_signal_a_run_waits_for(app: SdkApp, developing: str) -> None:
    made = ran("wait", signal="one")
    page = httpx.get(f"{developing}/dev/invocations/{made.id}", headers={"Accept": "text/html"})
    assert "waiting at wait for the signal one" in page.text


@pytest.mark.parametrize(
    ("provider", "path", "header", "value"),
    [
        ("openai", "/chat/completions", "authorization", f"Bearer {KEY}"),
        ("anthropic", "/messages", "x-api-key", KEY),
        ("gemini", "/models/model-1:generateContent", None, None),
    ],
)
def test_an_ai_service_is_asked_with_the_key_of_the_application(
    app: SdkApp, service: FakeService, provider: str, path: str, header: str | None, value: Any
) -> None:
    service.answers[path] = (200, json.dumps(OPENAI).encode(), {})
    made = ran("infer", provider=provider, url=service.url, body={"messages": []})
    assert made.output == {"value": OPENAI}
    [(method, _)] = service.asked
    assert method == "POST"
    if header is None:
        assert service.asked[0][1] == f"{path}?key={KEY}"
    else:
        assert service.header(header) == value
    assert service.header("content-type") == "application/json"
    assert json.loads(service.requests[0][3])["messages"] == []
    assert secrets_in_database(KEY) == []


def test_anthropic_is_told_which_version_is_spoken(app: SdkApp, service: FakeService) -> None:
    service.answers["/messages"] = (200, b"{}", {})
    ran("infer", provider="anthropic", url=service.url, body={})
    assert service.header("anthropic-version") == "2023-06-01"


def test_what_an_ai_service_refuses_is_tried_again(app: SdkApp, service: FakeService) -> None:
    freeze()
    service.answers["/chat/completions"] = (200, b'{"ok": true}', {})
    service.failures.append((429, {"Retry-After": "3600"}))
    made = ran("infer", provider="openai", url=service.url, body={})
    assert made.status == "queued"
    assert 3_590 < (made.due - clock.now()).total_seconds() < 3_610
    remote_work.advance(minutes=61)
    assert made.output == {"value": {"ok": True}}
    assert len(service.requests) == 2


def test_a_function_may_catch_what_an_ai_service_has_refused(
    app: SdkApp, service: FakeService
) -> None:
    freeze()
    answer = json.dumps({"error": f"the key {KEY} is not valid"}).encode()
    service.answers["/chat/completions"] = (401, answer, {})
    made = ran("infer", provider="openai", url=service.url, body={})
    remote_work.advance(minutes=5)
    assert made.status == "succeeded"
    assert "HTTP 401" in made.output["error"]
    assert "the key [redacted] is not valid" in made.output["error"]
    assert len(service.requests) == 2
    assert secrets_in_database(KEY) == []


def test_keys_that_an_answer_repeats_are_not_kept(app: SdkApp, service: FakeService) -> None:
    service.answers["/chat/completions"] = "echo"
    made = ran("infer", provider="openai", url=service.url, body={})
    assert made.output["value"]["headers"]["authorization"] == "[redacted]"
    assert service.header("authorization") == f"Bearer {KEY}"
    assert secrets_in_database(KEY) == []


@pytest.mark.parametrize("status", [200, 204, 404, 500])
@only_javascript
def test_every_status_is_an_answer_to_a_fetch(
    app: SdkApp, service: FakeService, status: int
) -> None:
    text = b"" if status == 204 else b"hello"
    service.answers["/thing"] = (status, text, {"X-Kind": "odd"})
    made = ran("fetch", url=f"{service.url}/thing")
    assert made.output == {"value": {"status": status, "kind": "odd", "text": text.decode()}}
    assert service.asked == [("GET", "/thing")]


@only_javascript
def test_a_fetch_sends_what_the_function_says(app: SdkApp, service: FakeService) -> None:
    service.answers["/thing"] = "echo"
    made = ran(
        "fetch",
        url=f"{service.url}/thing?n=1",
        method="POST",
        headers={"x-own": "mine", "content-type": "application/json", "host": "other"},
        body='{"a": 1}',
    )
    assert made.output["value"]["status"] == 200
    seen = json.loads(made.output["value"]["text"])
    assert seen["path"] == "/thing?n=1"
    assert seen["body"] == '{"a": 1}'
    assert seen["headers"]["x-own"] == "mine"
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["Host"] == service.url.removeprefix("http://")
    assert service.header("authorization") == f"Bearer {KEY}"
    assert secrets_in_database(KEY) == []


@only_javascript
def test_a_fetch_without_an_answer_is_tried_again(app: SdkApp, service: FakeService) -> None:
    freeze()
    service.answers["/thing"] = (200, b"hello", {})
    service.failures.extend(["reset", "reset"])  # the client itself repeats a GET once
    made = ran("fetch", url=f"{service.url}/thing")
    assert made.status == "queued"
    remote_work.advance(minutes=5)
    assert made.output["value"]["text"] == "hello"


@only_javascript
def test_a_fetch_that_is_never_answered_is_an_error(app: SdkApp, service: FakeService) -> None:
    freeze()
    service.failures.extend(["reset"] * 4)
    made = ran("fetch", url=f"{service.url}/thing")
    remote_work.advance(minutes=5)
    assert made.output["error"].startswith(service.url)


@only_javascript
def test_a_fetch_runs_beside_other_steps(app: SdkApp, service: FakeService) -> None:
    service.answers["/thing"] = (200, b"hello", {})
    made = ran("both", url=f"{service.url}/thing")
    assert made.output == {"text": "hello", "own": "own"}
    assert len(service.requests) == 1


@only_javascript
def test_an_answer_that_is_too_large_to_keep_is_an_error(app: SdkApp, service: FakeService) -> None:
    service.answers["/thing"] = (200, b"x" * 5_000_000, {})
    made = ran("fetch", url=f"{service.url}/thing")
    assert "more than a step can keep" in made.output["error"]
