"""`runyard doctor` on the providers: off by default, on with a key, failing with a wrong one."""

from collections.abc import Iterator
from typing import Any

import pytest

from demo.fake_server import FakeServer, Handler
from pipelines.checks import checks
from tests.fake_gemini import FakeGemini
from tests.fake_openai import FakeOpenAI


class Scopes(FakeServer):
    """SendGrid's endpoint for the scopes of a key."""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        good = (
            request.path == "/v3/scopes"
            and request.headers.get("Authorization") == "Bearer SG.good"
        )
        request.answer(200 if good else 401, {"scopes": ["mail.send"]} if good else {"errors": []})


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scopes]:
    with Scopes() as server:
        monkeypatch.setenv("SENDGRID_API_HOST", server.url)
        yield server


def said() -> dict[str, tuple[bool, str]]:
    return {check.name: (check.ok, check.says) for check in checks()}


def test_without_keys_everything_is_off_and_well() -> None:
    shown = said()
    assert all(ok for ok, _ in shown.values())
    assert "SENDGRID_API_KEY" in shown["mail"][1]
    assert "GEMINI_API_KEY" in shown["text"][1]
    assert shown["sync supabase"][1] == "off: SUPABASE_DB_URL switches it on"


def test_with_keys_they_are_on_and_checked(
    scopes: Scopes, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.good")
    shown = said()
    assert shown["mail"] == (True, "on: SendGrid accepts the key")
    assert shown["openai"][1].startswith("on: 2 models at ")
    assert shown["sync sendgrid"] == (True, "on: 3 tables into sync_sendgrid")


def test_a_wrong_key_is_not_well_and_not_shown(
    scopes: Scopes, openai: FakeOpenAI, gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SENDGRID_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "wrong-and-secret")
    shown = said()
    assert not shown["mail"][0]
    assert "check SENDGRID_API_KEY" in shown["mail"][1]
    assert not shown["openai"][0]
    assert "401" in shown["openai"][1]
    assert not shown["gemini"][0]
    assert "wrong-and-secret" not in str(shown)
    assert gemini.key not in str(shown)


def test_a_sender_that_is_not_an_address_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_FROM", "Acme <mail@acme>")
    ok, says = said()["mail"]
    assert not ok
    assert "MAIL_FROM 'Acme <mail@acme>' is not an e-mail address" in says


def test_a_wrong_order_of_providers_is_named(
    openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_PROVIDERS", "nobody")
    assert said()["text"] == (
        False,
        "AI_PROVIDERS names nobody; there are: gemini, openai, offline",
    )
