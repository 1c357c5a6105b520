"""Content: providers that fail, fall back and refuse; sections as steps; budgets."""

from types import SimpleNamespace
from typing import Any

import pytest

from resources.ai import circuit_breaker
from resources.ai.circuit_breaker import CircuitBreaker
from resources.ai.generators import Prompt, Refused
from resources.ai.providers import Providers
from runyard.errors import NonRetriable, RetryAfter
from runyard.testing import Invocation, Yard
from tests.fake_gemini import FakeGemini
from tests.fake_openai import FakeOpenAI
from tests.tables import rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"
)  # the Gemini package leaves connections open that have failed
NAME = "content/generate.requested"


def ask(yard: Yard, **more: Any) -> Invocation:
    invocation = yard.send(NAME, {"topic": "Durable queues", "length": 150, **more}).invocation
    yard.work()
    return invocation


def test_an_article_is_outlined_written_section_by_section_and_kept(
    yard: Yard, openai: FakeOpenAI
) -> None:
    invocation = ask(yard, length=600, user="ada", notify=True, audience="developers")
    assert invocation.status == "succeeded", invocation
    assert invocation.output["status"] == "needs review", invocation
    assert sorted(invocation.steps) == sorted(
        [
            "choose-provider",
            "outline",
            "section-1",
            "section-2",
            "section-3",
            "check",
            "save",
            "notify",
            "result",
        ]
    )
    [kept] = rows("SELECT * FROM app.content")
    assert kept["outline"] == ["What it is", "How it works", "Where to go"]
    assert kept["text"].startswith("What it is\n\nQueues hold the rain")
    assert kept["prompt_versions"] == ["outline/2", "section/2"]
    assert kept["id"] == invocation.output["content"]
    assert not kept["offline"]
    assert kept["usage"]["prompt_tokens"] == 160
    assert kept["usage"]["output_tokens"] == 240
    assert kept["usage"]["cost"] == pytest.approx(4 * (40 * 0.1 + 60 * 0.5) / 1e6)
    assert kept["remarks"] == ["it has 153 words instead of 600"]
    calls = rows("SELECT * FROM app.ai_calls ORDER BY id")
    assert [(call["purpose"], call["status"], call["user_id"]) for call in calls] == [
        ("outline", "ok", "ada")
    ] + [("section", "ok", "ada")] * 3
    assert [text for _, text in invocation.progress if "section 3" in text] == [
        "section 3 of 3: Where to go"
    ]
    assert yard.sent("notification/requested")[0].data["user"] == "ada"
    assert "developers" in openai.prompts[0]
    assert "Section" not in openai.prompts[0]


def test_what_was_written_is_not_written_again_after_a_failure(
    yard: Yard, openai: FakeOpenAI
) -> None:
    openai.failures.extend([None, None, None, 500])
    invocation = ask(yard, length=600)
    assert invocation.status == "queued"
    assert [name for name, step in invocation.steps.items() if step.error] == ["section-3"]
    yard.advance("1m")
    assert invocation.status == "succeeded"
    assert len(openai.prompts) == 4


@pytest.mark.parametrize("failure", [500, 503, "reset", "garbage", "cut", "slow"])
def test_what_time_can_mend_is_tried_again(
    yard: Yard, openai: FakeOpenAI, failure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai.failures.append(failure)
    with monkeypatch.context() as first:
        first.setenv("AI_TIMEOUT", "0.4")
        invocation = ask(yard)
    assert invocation.status == "queued", invocation
    yard.advance("1m")
    assert invocation.status == "succeeded"
    assert [call["status"] for call in rows("SELECT status FROM app.ai_calls ORDER BY id")][:2] == [
        "connectionerror",
        "ok",
    ]


def test_a_quota_with_a_reset_waits_for_it(yard: Yard, openai: FakeOpenAI) -> None:
    openai.failures.append("quota")
    invocation = ask(yard)
    assert 119 < (invocation.due - yard.now).total_seconds() <= 120


@pytest.mark.parametrize("failure", ["quota", 500, "garbage", "reset"])
def test_another_provider_takes_over_when_the_first_is_down_or_out_of_quota(
    yard: Yard, gemini: FakeGemini, openai: FakeOpenAI, failure: Any
) -> None:
    gemini.failures.extend([429 if failure == "quota" else failure] * 4)
    invocation = ask(yard)
    assert invocation.status == "succeeded"
    assert invocation.steps["choose-provider"].output == "gemini"
    assert invocation.output["provider"] in ("gemini", "openai")
    calls = rows("SELECT provider, status FROM app.ai_calls ORDER BY id")
    assert (calls[0]["provider"], calls[1]["provider"], calls[1]["status"]) == (
        "gemini",
        "openai",
        "ok",
    )
    assert "the offline" not in str(invocation.output)


def test_the_model_of_one_provider_is_not_asked_of_the_next(
    yard: Yard, gemini: FakeGemini, openai: FakeOpenAI
) -> None:
    gemini.failures.extend([503] * 2)
    assert ask(yard, provider="gemini", model="gemini-9-huge").status == "succeeded"
    assert {
        (call["provider"], call["model"])
        for call in rows("SELECT provider, model FROM app.ai_calls")
    } == {("gemini", "gemini-9-huge"), ("openai", "gpt-6-luna")}


@pytest.mark.parametrize("names", ["gemini", "openai"])
def test_a_refusal_is_final_and_nobody_else_is_asked(
    yard: Yard, gemini: FakeGemini, openai: FakeOpenAI, names: str
) -> None:
    (gemini if names == "gemini" else openai).failures.append("blocked")
    invocation = ask(yard, provider=names)
    assert invocation.status == "failed"
    assert "refuses this prompt" in str(invocation.steps["outline"].error)
    assert len(rows("SELECT 1 FROM app.ai_calls")) == 1
    assert rows("SELECT status FROM app.ai_calls") == [{"status": "refused"}]


def test_a_filter_in_the_middle_of_a_text_is_a_refusal(yard: Yard, openai: FakeOpenAI) -> None:
    openai.finish = "content_filter"
    assert ask(yard).status == "failed"


def test_a_wrong_key_is_final_and_not_shown(
    yard: Yard, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-secret")
    invocation = ask(yard)
    assert invocation.status == "failed"
    assert "401" in str(invocation.steps["outline"].error)
    assert "sk-wrong" not in str(invocation.steps) + str(rows("SELECT * FROM app.ai_calls"))


def test_a_provider_that_is_not_switched_on_is_named(yard: Yard, openai: FakeOpenAI) -> None:
    invocation = ask(yard, provider="gemini")
    assert invocation.status == "failed"
    assert "Set GEMINI_API_KEY" in str(invocation.steps["choose-provider"].error)


def test_without_a_key_the_text_is_a_placeholder_that_says_so(yard: Yard) -> None:
    invocation = ask(yard)
    [kept] = rows("SELECT * FROM app.content")
    assert kept["offline"]
    assert kept["status"] == "needs review"
    assert invocation.output["offline"]
    assert "made offline" in kept["text"]
    assert kept["remarks"][0] == "no model has written it: a placeholder"


def test_a_wrong_language_and_an_unfinished_text_are_remarked(
    yard: Yard, openai: FakeOpenAI
) -> None:
    openai.finish = "length"
    ask(yard, language="de")
    [kept] = rows("SELECT remarks FROM app.content")
    assert "its language seems to be en instead of de" in kept["remarks"]
    assert "section 1 has no end" in kept["remarks"]


def test_a_budget_refuses_more_for_this_user_and_day_alone(
    yard: Yard, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_DAILY_TOKENS", "150")
    assert ask(yard, user="ada").status == "succeeded"
    refused = ask(yard, user="ada")
    assert refused.status == "failed"
    assert "user ada has used 200 of the 150 that AI_DAILY_TOKENS allows a day" in str(
        refused.steps["outline"].error
    )
    assert ask(yard, user="bob").status == "succeeded"
    yard.advance("1d")
    assert ask(yard, user="ada").status == "succeeded"


def test_a_breaker_opens_after_failures_and_lets_one_call_through_after_its_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=lambda: now))
    breaker = CircuitBreaker(failures=2, rest=60)
    breaker.failed()
    assert breaker.seconds_left() == 0
    breaker.failed()
    assert breaker.seconds_left() > 0
    now += 61
    assert breaker.seconds_left() == 0
    assert breaker.seconds_left() > 0, "two calls were let through"
    breaker.succeeded()
    assert breaker.seconds_left() == 0


def test_a_provider_that_rests_is_not_asked(runyard_database: str, openai: FakeOpenAI) -> None:
    openai.failures.extend([500] * 5)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            Providers().generate(Prompt(prompt="x"))
    asked = len(openai.requests)
    with pytest.raises(RetryAfter, match="is not called for"):
        Providers().generate(Prompt(prompt="x"))
    assert len(openai.requests) == asked


def test_a_text_that_has_begun_is_not_begun_again_elsewhere(
    runyard_database: str, gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_PROVIDERS", "openai,gemini")
    openai.failures.append("cut")
    with pytest.raises(ConnectionError):
        list(Providers().pieces(Prompt(prompt="x")))
    assert gemini.prompts == []


def test_an_unknown_provider_in_the_order_is_named(
    runyard_database: str, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_PROVIDERS", "openai,grok")
    with pytest.raises(NonRetriable, match="AI_PROVIDERS names grok"):
        Providers().generate(Prompt(prompt="x"))
    monkeypatch.setenv("AI_PROVIDERS", "openai")
    openai.failures.append("blocked")
    with pytest.raises(Refused):
        Providers().generate(Prompt(prompt="x"))
