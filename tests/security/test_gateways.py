"""Requests that steps have made from here go only where they may, and give no key away."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from runyard.apps.answers import Asked, Keep, MakeRequest, Step, StepFailed
from runyard.apps.calls import Caller
from runyard.apps.gateways import make_request
from runyard.apps.trust import guard
from runyard.settings import settings
from tests.fake_service import FakeService

STEP = Step("a" * 40, "ask")
KEY = "sk-secret-0123456789"
PRODUCTION = "signkey-prod-" + "ab" * 16


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Settings are read anew in each test, and after it."""
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def first() -> Iterator[FakeService]:
    """The service that is asked."""
    with FakeService() as fake:
        fake.answers["/"] = (200, b'{"n": 1}', {})
        yield fake


@pytest.fixture
def second() -> Iterator[FakeService]:
    """Another origin."""
    with FakeService() as fake:
        fake.answers["/"] = (200, b"other", {})
        yield fake


def produce(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set what production has: a signing key, and these variables."""
    monkeypatch.setenv("RUNYARD_SIGNING_KEY", PRODUCTION)
    for name, value in variables.items():
        monkeypatch.setenv(f"RUNYARD_{name}", value)
    settings.cache_clear()


def made(*, is_ai: bool = False, is_last: bool = True, **options: Any) -> Keep | StepFailed:
    """Make a request, and return what it has come to."""

    async def make() -> Keep | StepFailed:
        async with Caller(guard(), 20) as caller:
            asked = Asked(STEP.id, 3 if is_last else 0, 4)
            return await make_request(caller, MakeRequest(STEP, is_ai, options), asked)

    return asyncio.run(make())


def data(**options: Any) -> Any:
    """What the step has come to."""
    kept = made(**options)
    assert isinstance(kept, Keep)
    return kept.memo["data"]


def error(**options: Any) -> str:
    """The message of the error that the step has come to."""
    kept = made(**options)
    assert isinstance(kept, Keep)
    return str(kept.memo["error"]["message"])


def test_in_production_steps_have_nothing_requested(
    monkeypatch: pytest.MonkeyPatch, first: FakeService
) -> None:
    produce(monkeypatch, ALLOWED_HOSTS="127.0.0.1")
    told = error(url=first.url, is_last=False)
    assert told.startswith("steps may not have 127.0.0.1 requested from here")
    assert "RUNYARD_GATEWAY_HOSTS" in told
    assert first.requests == []


def test_hosts_that_are_listed_are_requested_and_no_others(
    monkeypatch: pytest.MonkeyPatch, first: FakeService, second: FakeService
) -> None:
    listed = first.url.removeprefix("http://")
    produce(monkeypatch, GATEWAY_HOSTS=listed, ALLOWED_HOSTS="127.0.0.1")
    assert data(url=first.url)["status_code"] == 200
    assert "RUNYARD_GATEWAY_HOSTS" in error(url=second.url)
    assert second.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f.1"])
def test_in_production_no_private_address_is_requested(
    monkeypatch: pytest.MonkeyPatch, first: FakeService, host: str
) -> None:
    produce(monkeypatch, GATEWAY_HOSTS="*")
    port = first.url.rpartition(":")[2]
    assert "no call may go" in (told := error(url=f"http://{host}:{port}/")) or (
        "RUNYARD_ALLOWED_HOSTS" in told
    )
    assert first.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_in_production_a_redirect_to_a_private_address_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, first: FakeService, second: FakeService, status: int
) -> None:
    produce(monkeypatch, GATEWAY_HOSTS="*", ALLOWED_HOSTS=first.url.removeprefix("http://"))
    first.answers["/"] = (status, b"", {"Location": second.url})
    assert "RUNYARD_ALLOWED_HOSTS" in error(url=first.url)
    assert (len(first.requests), second.requests) == (1, [])


def test_link_local_addresses_are_not_requested_in_development_either() -> None:
    assert "to which no call may go" in error(url="http://169.254.169.254/latest/meta-data")


def test_a_redirect_to_another_origin_takes_no_secret_along(
    first: FakeService, second: FakeService
) -> None:
    first.answers["/"] = (302, b"", {"Location": f"{second.url}/"})
    headers = {"Authorization": f"Bearer {KEY}", "Cookie": KEY, "X-Any": KEY, "Accept": "a/b"}
    assert data(url=first.url, headers=headers)["body"] == "other"
    seen = {name.lower() for name in second.requests[0][2]}
    assert seen == {"accept", "accept-encoding", "host", "user-agent"}
    assert KEY not in str(second.requests)


def test_a_body_is_not_sent_on_to_another_origin(first: FakeService, second: FakeService) -> None:
    first.answers["/"] = (307, b"", {"Location": f"{second.url}/"})
    assert "must not get what is sent" in error(url=first.url, method="POST", body="secret")
    assert second.requests == []


def test_a_question_for_an_ai_service_is_not_sent_on_to_another_origin(
    first: FakeService, second: FakeService
) -> None:
    first.answers["/"] = (308, b"", {"Location": f"{second.url}/"})
    told = error(is_ai=True, url=first.url, auth_key=KEY, format="openai-chat", body={})
    assert "must not get what is sent" in told
    assert second.requests == []


def test_a_redirect_within_the_origin_keeps_headers_and_body(first: FakeService) -> None:
    first.answers["/"] = (307, b"", {"Location": "/there"})
    first.answers["/there"] = "echo"
    answer = data(url=first.url, method="POST", body="text", headers={"x-key": KEY})
    assert answer["url"] == f"{first.url}/there"
    assert json.loads(answer["body"])["body"] == "text"
    assert first.header("x-key") == KEY


def test_after_303_a_post_becomes_a_get_without_its_body(first: FakeService) -> None:
    first.answers["/"] = (303, b"", {"Location": "/there"})
    first.answers["/there"] = "echo"
    assert json.loads(data(url=first.url, method="POST", body="text")["body"])["body"] == ""
    assert first.asked == [("POST", "/"), ("GET", "/there")]


def test_redirects_without_end_are_an_error(first: FakeService) -> None:
    first.answers["/"] = (302, b"", {"Location": "/"})
    assert "redirected more than 10 times" in error(url=first.url)


def test_an_answer_that_is_too_large_is_an_error(first: FakeService) -> None:
    first.answers["/"] = (200, b"x" * 9_000_000, {})
    assert "more than 8,388,608 bytes" in error(url=first.url)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "file:///etc/passwd"}, "http or https, with a host"),
        ({"url": "//host/path"}, "http or https, with a host"),
        ({"url": "http://[::1"}, "http or https, with a host"),
        ({"url": 5}, "http or https, with a host"),
        ({}, "http or https, with a host"),
        ({"url": f"http://user:{KEY}@127.0.0.1/"}, "send the header Authorization"),
        ({"method": "CONNECT"}, "the method is not one of"),
        ({"headers": {"x\r\ny": "z"}}, "a header has a name that is none"),
        ({"headers": {"x-key": f"{KEY}\r\nx-other: 1"}}, "header x-key has a value"),
        ({"headers": [1]}, "the headers of the request are not an object"),
        ({"body": {"a": 1}}, "the body must be text"),
    ],
)
def test_a_request_that_makes_no_sense_fails_for_good(
    first: FakeService, options: dict[str, Any], told: str
) -> None:
    url = {} if "url" in options or not options else {"url": first.url}
    said = error(is_last=False, **url, **options)
    assert told in said
    assert KEY not in said
    assert first.requests == []


def test_keys_are_masked_in_what_is_kept_and_said(first: FakeService) -> None:
    first.answers["/"] = "echo"
    url = f"{first.url}/?api_key={KEY}"
    kept = json.dumps(data(url=url, headers={"Authorization": "Bearer other-0123"}))
    assert "other-0123" not in kept
    assert KEY not in kept
    first.answers["/"] = (403, KEY.encode(), {})
    assert KEY not in error(is_ai=True, url=first.url, auth_key=KEY, body={})


def test_an_effect_with_a_key_does_not_show_it() -> None:
    assert KEY not in repr(MakeRequest(STEP, True, {"auth_key": KEY}))


@pytest.mark.parametrize(
    ("format", "header", "value"),
    [
        ("openai-chat", "authorization", f"Bearer {KEY}"),
        ("openai-responses", "authorization", f"Bearer {KEY}"),
        ("grok", "authorization", f"Bearer {KEY}"),
        ("anthropic", "x-api-key", KEY),
        ("gemini", "x-goog-api-key", KEY),
        ("azure-openai", "api-key", KEY),
    ],
)
def test_each_ai_service_gets_the_key_in_its_own_header(
    first: FakeService, format: str, header: str, value: str
) -> None:
    answer = data(is_ai=True, url=first.url, auth_key=KEY, format=format, body={})
    assert answer == {"n": 1}
    assert first.header(header) == value
    others = {"authorization", "x-api-key", "x-goog-api-key", "api-key"} - {header}
    assert [first.header(name) for name in others] == [None] * 3
