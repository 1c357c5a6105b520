"""Real models' behaviour: rejected parameters, reasoning in the text, names that are gone."""

import json
import sys
from typing import Any

import pytest

from pipelines.checks import checks
from resources.ai.calls import price
from resources.ai.gemini import GEMINI_MODEL
from resources.ai.gemini_libraries import GENAI
from resources.ai.generators import Generated, NoSuchModel, Prompt, Refused
from resources.ai.openai_compatible import OPENAI_MODEL, OpenAIGenerator
from resources.ai.outlines import SHAPE
from resources.ai.providers import Providers
from resources.ai.refused_parameters import RefusedParameters
from runyard.errors import NonRetriable
from runyard.testing import Invocation, Yard
from tests.fake_gemini import PIECES, USAGE, FakeGemini, chunk
from tests.fake_openai import SENTENCE, FakeOpenAI, refusal
from tests.tables import rows

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
NAME = "content/generate.requested"
JAPANESE = "待ち行列は、仕事を後で行うために保存します。データベースに全ての手順を残します。"
CHINESE = "队列把工作从请求里拿出来，慢慢地做。每一个步骤都保存在数据库里，所以什么都不会丢失。"


def ask(yard: Yard, **more: Any) -> Invocation:
    invocation = yard.send(NAME, {"topic": "Durable queues", "length": 150, **more}).invocation
    yard.work()
    return invocation


def write(**more: Any) -> Generated:
    return Providers().generate(Prompt(prompt="A haiku about queues", **more))


def calls() -> list[dict[str, Any]]:
    return rows("SELECT * FROM app.ai_calls ORDER BY id")


# Rejected parameters


@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-5-mini", "o3-mini"])
def test_a_model_gets_the_parameters_that_it_takes(openai: FakeOpenAI, model: str) -> None:
    generated = write(model=model, max_tokens=50, temperature=0.5)
    assert generated.finish_reason == "STOP"
    [payload] = openai.payloads
    assert payload["max_completion_tokens"] == 50
    assert "max_tokens" not in payload
    assert "temperature" not in payload


@pytest.mark.parametrize("model", ["llama3.3", "gpt-4o-mini"])
def test_an_older_model_gets_the_older_parameters(openai: FakeOpenAI, model: str) -> None:
    write(model=model, max_tokens=50, temperature=0.5)
    [payload] = openai.payloads
    assert (payload["max_tokens"], payload["temperature"]) == (50, 0.5)


def test_a_refused_parameter_is_learnt_for_this_model_alone(openai: FakeOpenAI) -> None:
    write(model="o3-mini", temperature=0.5)
    assert len(openai.requests) == 2
    write(model="o3-mini", temperature=0.5)
    assert len(openai.requests) == 3
    write(model="gpt-4o-mini", temperature=0.5)
    assert openai.payloads[-1]["temperature"] == 0.5


def test_an_article_of_a_model_that_refuses_parameters_pays_for_each_part_once(
    yard: Yard, openai: FakeOpenAI
) -> None:
    invocation = ask(yard, model="o3-mini")
    assert invocation.status == "succeeded", invocation.steps
    said = [(call["purpose"], call["status"]) for call in calls()]
    assert said == [("outline", "ok"), ("section", "ok")]
    assert len(openai.prompts) == 2


UNKNOWN = "Unrecognized request argument supplied: stream_options"
REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "temperature": (400, refusal("temperature", "Unsupported value", "unsupported_value")),
    "max_tokens": (
        422,
        {"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]},
    ),
    "stream_options": (400, {"error": {"message": UNKNOWN, "type": "invalid_request_error"}}),
    "response_format": (400, {"error": "response_format of type json_schema is not supported"}),
    "stream": (400, refusal("stream", "Your organization must be verified", "unsupported_value")),
    "system message": (
        400,
        refusal("messages[0].role", "does not support 'system'", "unsupported_value"),
    ),
}


WORDS = {
    "temperature": "`temperature` is deprecated for this model.",
    "response_format": "This response_format type is unavailable now",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_refusal_is_understood_by_its_words_too(openai: FakeOpenAI, name: str) -> None:
    openai.refuses = {name: (400, {"error": {"message": WORDS[name], "code": "invalid"}})}
    write(model="local", temperature=0.5, shape=SHAPE)
    assert len(openai.requests) == 2
    assert name not in openai.payloads[0]


@pytest.mark.parametrize("name", REFUSALS)
def test_whatever_can_be_left_out_is_left_out_when_it_is_refused(
    openai: FakeOpenAI, name: str
) -> None:
    openai.refuses = {name: REFUSALS[name]}
    payload = {"temperature": 0.5, "max_tokens": 50, "system": "Be brief.", "shape": SHAPE}
    generated = write(model="local", **payload)
    assert generated.text == SENTENCE * 3
    assert len(openai.requests) == 2
    assert "Be brief." in json.dumps(openai.payloads)
    write(model="local", **payload)
    assert len(openai.requests) == 3


def test_a_request_that_is_wrong_otherwise_is_final_and_sent_once(openai: FakeOpenAI) -> None:
    openai.refuses = {"model": (400, refusal("messages", "too long", "context_length_exceeded"))}
    with pytest.raises(NonRetriable, match="too long"):
        write(model="local", temperature=0.5)
    assert len(openai.requests) == 1


def test_what_is_learnt_of_models_is_bounded() -> None:
    learnt = RefusedParameters()
    learnt.add("server", "kept", "temperature")
    for number in range(1000):
        assert learnt.of("server", "kept") == {"temperature"}
        learnt.add("server", f"model-{number}", "temperature")
    assert learnt.of("server", "model-0") == frozenset()
    assert learnt.of("server", "model-999") == {"temperature"}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("shape", "JSON mode is not enabled for models/gemma"),
        ("system", "Developer instruction is not enabled for models/gemma"),
    ],
)
def test_a_gemini_model_that_refuses_a_field_is_asked_without_it(
    gemini: FakeGemini, field: str, words: str
) -> None:
    gemini.refuses = {"responseMimeType" if field == "shape" else "systemInstruction": words}
    for requests in (2, 3):
        assert write(system="Be brief.", shape=SHAPE).text == "".join(PIECES)
        assert len(gemini.requests) == requests
    assert "Be brief." in json.dumps(gemini.prompts[-1])


# Reasoning, outlines, languages


@pytest.mark.parametrize(
    "deltas",
    [
        [
            {"content": "<think>quiet "},
            {"content": "thoughts</th"},
            {"content": f"ink>\n{SENTENCE}"},
        ],
        [{"reasoning_content": "quiet thoughts"}, {"content": SENTENCE}],
        [{"reasoning": "quiet thoughts", "content": ""}, {"content": SENTENCE}],
        [{"content": f"quiet thoughts</think>{SENTENCE}"}],
        [
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "quiet thoughts"}]}
                ]
            },
            {"content": [{"type": "text", "text": SENTENCE}]},
        ],
    ],
)
def test_reasoning_is_removed_from_a_text_and_is_counted(
    openai: FakeOpenAI, deltas: list[dict[str, Any]]
) -> None:
    openai.deltas = deltas
    generated = write()
    assert generated.text == SENTENCE
    assert generated.output_tokens == 60
    assert generated.thinking_tokens == round(60 * 14 / (14 + len(SENTENCE)))


def test_an_article_of_a_model_that_thinks_aloud_has_none_of_it(
    yard: Yard, openai: FakeOpenAI
) -> None:
    openai.text = f"<think>Here is an outline: I need to</think>{SENTENCE}"
    invocation = ask(yard)
    [kept] = rows("SELECT * FROM app.content")
    assert invocation.status == "succeeded"
    assert "think" not in kept["text"]
    assert kept["usage"]["thinking_tokens"] > 0


def test_an_outline_is_asked_for_as_structure_and_its_introduction_is_no_heading(
    yard: Yard, openai: FakeOpenAI
) -> None:
    openai.write = lambda prompt: (  # type: ignore[method-assign]
        "Here is an outline:\n\n1. What it is\n2. How it works"
        if "outline of" in prompt.splitlines()[0]
        else SENTENCE
    )
    try:
        ask(yard, length=400)
    finally:
        del openai.write
    assert rows("SELECT outline FROM app.content") == [{"outline": ["What it is", "How it works"]}]
    assert openai.payloads[0]["response_format"]["json_schema"]["schema"] == SHAPE
    assert "response_format" not in openai.payloads[1]


def test_an_outline_that_nobody_understands_is_one_section_to_look_at(
    yard: Yard, openai: FakeOpenAI
) -> None:
    openai.text = "I would be glad to help you with that."
    ask(yard)
    [kept] = rows("SELECT * FROM app.content")
    assert kept["outline"] == ["Durable queues"]
    assert kept["remarks"][0] == "its outline was not understood: the text is one section"


def test_gemini_is_asked_for_an_outline_as_structure(yard: Yard, gemini: FakeGemini) -> None:
    assert ask(yard).status == "succeeded"
    config = gemini.prompts[0]["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert {"responseSchema", "responseJsonSchema"} & config.keys()


@pytest.mark.parametrize(("language", "text"), [("ja", JAPANESE), ("zh", CHINESE)])
def test_a_text_without_spaces_between_words_needs_no_review(
    yard: Yard, openai: FakeOpenAI, language: str, text: str
) -> None:
    openai.write = lambda prompt: (  # type: ignore[method-assign]
        '{"headings": ["一", "二"]}' if "outline of" in prompt.splitlines()[0] else text * 10
    )
    try:
        invocation = ask(yard, language=language, length=400)
    finally:
        del openai.write
    assert invocation.output["status"] == "complete", invocation.output
    assert "about 400 characters" in openai.prompts[0]


# Answers of another shape


def test_a_server_that_streams_nothing_is_understood(openai: FakeOpenAI) -> None:
    openai.streams = False
    generated = write()
    assert (generated.text, generated.output_tokens) == (SENTENCE * 3, 60)


def test_an_end_without_a_delta_is_an_end(openai: FakeOpenAI) -> None:
    openai.last_delta = None
    assert write().text == SENTENCE * 3


def test_a_response_that_is_not_a_completion_is_rejected(openai: FakeOpenAI) -> None:
    openai.failures.append("other json")
    with pytest.raises(ConnectionError, match="is not a completion") as raised:
        write()
    assert openai.key not in str(raised.value)


def test_an_answer_that_comes_twice_is_taken_once(openai: FakeOpenAI) -> None:
    openai.deltas = [{"content": SENTENCE}]
    openai.times = 2
    assert write().text == SENTENCE


def test_gemini_answers_that_come_twice_are_taken_once(gemini: FakeGemini) -> None:
    other = {"content": {"parts": [{"text": "another"}]}, "index": 1, "finishReason": "STOP"}
    whole = chunk("Queues wait.", finish="STOP", usage=USAGE)
    whole["candidates"].append(other)
    gemini.chunks = [whole, whole]
    assert write().text == "Queues wait."


def test_the_halves_of_a_character_come_together(openai: FakeOpenAI) -> None:
    openai.deltas = [{"content": "Queues \ud83d"}, {"content": "\ude00\x00."}]
    assert write().text == "Queues \U0001f600."


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_an_answer_that_is_no_utf_8_is_mended_or_another_is_asked(
    openai: FakeOpenAI, gemini: FakeGemini, provider: str
) -> None:
    (openai if provider == "openai" else gemini).failures.append("latin-1")
    generated = write(provider=provider)
    assert generated.provider != provider or generated.text == "A caf\ufffd."


def test_half_an_answer_of_gemini_is_none(gemini: FakeGemini) -> None:
    gemini.chunks = [chunk("Queues hold")]
    with pytest.raises(ConnectionError, match="cut off"):
        write()


@pytest.mark.parametrize("part", [{"candidates": []}, {"usageMetadata": USAGE}])
def test_an_answer_of_gemini_without_a_candidate_is_tried_again(
    gemini: FakeGemini, part: dict[str, Any]
) -> None:
    gemini.chunks = [part]
    with pytest.raises(ConnectionError, match="no text"):
        write()


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT"])
def test_a_text_that_gemini_stops_is_refused_and_paid_for(gemini: FakeGemini, reason: str) -> None:
    gemini.chunks = [chunk("Queues", finish=reason, usage=USAGE)]
    with pytest.raises(Refused, match=reason):
        write()
    [call] = calls()
    assert (call["status"], call["output_tokens"]) == ("refused", 9)
    assert call["cost"] > 0


def test_a_refusal_in_words_of_its_own_is_a_refusal(openai: FakeOpenAI) -> None:
    openai.deltas = [{"refusal": "I can't help with that."}]
    with pytest.raises(Refused, match="I can't help"):
        write()


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_a_model_that_thinks_up_all_its_tokens_is_not_paid_again(
    yard: Yard, openai: FakeOpenAI, gemini: FakeGemini, provider: str
) -> None:
    openai.deltas, openai.finish = [], "length"
    details = {"reasoning_tokens": 60}
    openai.usage = {**openai.usage, "completion_tokens_details": details}
    usage = {"promptTokenCount": 40, "thoughtsTokenCount": 60, "totalTokenCount": 100}
    gemini.chunks = [chunk(finish="MAX_TOKENS", usage=usage)]
    invocation = ask(yard, provider=provider)
    assert invocation.status == "failed"
    said = "reached its token limit before the first word of a text (60 tokens, 60 of them"
    assert said in str(invocation.steps["outline"].error)
    [call] = calls()
    assert (call["status"], call["output_tokens"]) == ("unusable", 60)
    assert call["cost"] > 0


def test_words_of_a_provider_that_no_table_can_keep_are_kept_without_them(
    gemini: FakeGemini,
) -> None:
    gemini.failures.append("garbage")
    with pytest.raises(ConnectionError):
        write()
    assert calls()[0]["status"] == "connectionerror"


# Thinking is billed


def test_thinking_is_counted_and_paid_for_with_both_packages_of_gemini(gemini: FakeGemini) -> None:
    usage = {**USAGE, "thoughtsTokenCount": 200, "totalTokenCount": 214}
    gemini.chunks = [chunk("Queues wait."), chunk(finish="STOP", usage=usage)]
    generated = write()
    assert (generated.prompt_tokens, generated.output_tokens, generated.thinking_tokens) == (
        5,
        209,
        200,
    )
    assert generated.cost == pytest.approx((5 * 0.3 + 209 * 2.5) / 1_000_000)


def test_thoughts_of_gemini_are_removed_from_a_text(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_LIBRARY", GENAI)
    gemini.chunks = [chunk({"text": "quiet", "thought": True}, "Queues wait.", finish="STOP")]
    assert write().text == "Queues wait."


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        ({"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}, 60),
        ({"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 100}, 60),
        ({"prompt_tokens": 40, "completion_tokens": 60}, 60),
        ({"prompt_tokens": None, "completion_tokens": "many", "total_tokens": -3}, 63),
        ({"prompt_tokens": 1, "completion_tokens": 10**12, "total_tokens": 1}, 2**31 - 1),
    ],
)
def test_tokens_are_counted_as_they_are_paid_for(
    openai: FakeOpenAI, usage: dict[str, Any], output: int
) -> None:
    openai.usage = usage
    assert write().output_tokens == output


def test_tokens_that_nobody_counts_are_estimated_and_use_up_a_budget(
    yard: Yard, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_DAILY_TOKENS", "30")
    openai.usage = {}
    openai.text = "word " * 24
    write(user="ada")
    with pytest.raises(NonRetriable, match=r"user ada has used .* of the 30 that AI_DAILY_TOKENS"):
        write(user="ada")


def test_a_stream_of_gemini_without_usage_is_estimated(gemini: FakeGemini) -> None:
    gemini.chunks = [chunk("Queues wait, and wait.", finish="STOP")]
    generated = write()
    assert generated.output_tokens == 6
    assert generated.prompt_tokens > 0


def test_thinking_uses_up_a_budget(
    yard: Yard, gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_DAILY_USD", "0.001")
    usage = {**USAGE, "thoughtsTokenCount": 400, "totalTokenCount": 414}
    gemini.chunks = [chunk("Queues wait.", finish="STOP", usage=usage)]
    write(user="ada")
    with pytest.raises(NonRetriable, match=r"user ada has used .* of the 0.001 that AI_DAILY_USD"):
        write(user="ada")


# Models that are gone, and what they cost


def test_a_retired_model_is_skipped_and_reported(
    yard: Yard, gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_MODEL", "gemini-2.0-flash")
    invocation = ask(yard)
    assert invocation.status == "succeeded"
    assert invocation.output["provider"] == "openai"
    [kept] = rows("SELECT usage FROM app.content")
    said = kept["usage"]["calls"][0]["passed_over"][0]
    assert said.startswith("Gemini has no model gemini-2.0-flash: set GEMINI_MODEL")
    assert [call["status"] for call in calls()[:2]] == ["nosuchmodel", "ok"]


def test_openai_passes_over_a_model_that_is_gone_too(
    gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_PROVIDERS", "openai,gemini")
    openai.retired = {OPENAI_MODEL}
    generated = write()
    assert generated.provider == "gemini"
    assert f"has no model {OPENAI_MODEL}: set OPENAI_MODEL" in generated.passed_over[0]


@pytest.mark.parametrize("model", ["deepseek/deepseek-r1:free", "../../v1beta/files"])
def test_a_name_that_no_model_of_gemini_can_have_is_not_asked_for(
    gemini: FakeGemini, openai: FakeOpenAI, model: str
) -> None:
    assert write(model=model).provider == "openai"
    assert gemini.requests == []


def test_a_retired_model_is_a_final_error_without_another_provider(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_MODEL", "gemini-2.0-flash")
    with pytest.raises(NoSuchModel, match="set GEMINI_MODEL"):
        write()


def test_models_that_are_gone_everywhere_are_final(
    gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemini.retired, openai.retired = {GEMINI_MODEL}, {OPENAI_MODEL}
    with pytest.raises(NonRetriable, match="no provider can write it now: Gemini has no model"):
        write()


def test_a_model_that_is_gone_does_not_end_the_wait_for_another_provider(
    gemini: FakeGemini, openai: FakeOpenAI
) -> None:
    gemini.retired = {GEMINI_MODEL}
    openai.failures.append(500)
    with pytest.raises(ConnectionError):
        write()


def test_the_models_of_the_defaults_have_a_price() -> None:
    assert price(GEMINI_MODEL) == (0.3, 2.5)
    assert price(OPENAI_MODEL) == (0.1, 0.5)
    assert price("gpt-4o-mini-2024-07-18") == price("gpt-4o-mini")
    assert price("models/gemini-3.5-flash-lite-001") == price(GEMINI_MODEL)


def test_a_budget_in_dollars_refuses_a_model_without_a_price(
    openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_DAILY_USD", "5")
    with pytest.raises(NonRetriable, match=r"the price of the model llama3 is unknown: .*AI_OTHER"):
        write(user="ada", model="llama3")
    assert openai.requests == []
    assert write(model="llama3").cost is None, "nobody's budget"
    monkeypatch.setenv("AI_OTHER_PRICE", "1,2")
    assert write(user="ada", model="llama3").cost == pytest.approx((40 + 60 * 2) / 1_000_000)
    monkeypatch.setenv("AI_OTHER_PRICE", "0,0")
    assert write(user="ada", model="llama3").cost == 0


def test_a_budget_passes_over_a_model_without_a_price_when_the_first_is_down(
    gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_DAILY_USD", "5")
    monkeypatch.setenv("OPENAI_MODEL", "llama3")
    gemini.failures.append(500)
    with pytest.raises(ConnectionError, match="the price of the model llama3 is unknown"):
        write(user="ada")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AI_DAILY_USD", "five", "AI_DAILY_USD is not a number: five"),
        ("AI_TIMEOUT", "soon", "AI_TIMEOUT is not a number: soon"),
        ("AI_OTHER_PRICE", "1", "AI_OTHER_PRICE is not two prices"),
        ("AI_OTHER_PRICE", "1,-2", "AI_OTHER_PRICE is not two prices"),
        ("AI_PRICES", "/nowhere.toml", "the prices of models in /nowhere.toml"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_paid_for(
    openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(NonRetriable, match=said):
        write(user="ada", model="llama3")
    assert openai.requests == []


# runyard doctor


def said() -> dict[str, tuple[bool, str]]:
    return {check.name: (check.ok, check.says) for check in checks()}


def test_doctor_asks_for_the_models(gemini: FakeGemini, openai: FakeOpenAI) -> None:
    shown = said()
    assert shown["gemini"] == (True, f"on: 2 models, {GEMINI_MODEL} by default")
    assert shown["openai"][0]
    assert shown["openai"][1].endswith(f"{OPENAI_MODEL} by default")


def test_doctor_says_when_the_model_is_not_there(
    gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_MODEL", "gemini-2.0-flash")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4o-minni")
    shown = said()
    assert not shown["gemini"][0]
    assert not shown["openai"][0]
    assert "the model gemini-2.0-flash is not among the 2 models" in shown["gemini"][1]
    assert (
        "set GEMINI_MODEL to one of them (gemini-3.5-flash-lite, gemini-3.8" in shown["gemini"][1]
    )
    assert "set OPENAI_MODEL to one of them (fake-model, gpt-6-luna)" in shown["openai"][1]


def test_doctor_knows_the_names_of_ollama(
    openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai.models = ["llama3:latest"]
    monkeypatch.setenv("OPENAI_MODEL", "llama3")
    assert said()["openai"][0]


def test_doctor_does_not_read_a_list_without_an_end(gemini: FakeGemini) -> None:
    gemini.same_page = True
    assert said()["gemini"][0]


def test_no_key_and_no_password_is_shown(
    gemini: FakeGemini, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-key-that-nobody-may-see"
    host = openai.base_url.removeprefix("http://")
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    assert secret not in str(said())
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://ada:{secret}@{host}")
    monkeypatch.setenv("OPENAI_API_KEY", openai.key)
    assert secret not in str(said())


# The package for Gemini


def test_a_package_that_is_not_there_is_named(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_LIBRARY", "google-palm")
    with pytest.raises(NonRetriable, match=r"GEMINI_LIBRARY is 'google-palm': it can be google-g"):
        write()


def test_without_the_newer_package_the_older_one_is_taken(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.setenv("GEMINI_LIBRARY", GENAI)
    with pytest.raises(NonRetriable, match="google-genai, which is not installed"):
        write()
    monkeypatch.delenv("GEMINI_LIBRARY")
    assert write().text == "".join(PIECES)
    assert "google-genai" not in str(gemini.requests)


def test_the_newer_package_is_taken_where_it_is_installed(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_LIBRARY")
    write()
    assert any("google-genai" in str(headers) for _, _, headers, _ in gemini.requests)


def test_the_server_may_take_as_long_for_all_of_an_answer_as_we_do(
    gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_TIMEOUT", "7")
    write()
    [(_, _, headers, _)] = gemini.requests
    assert {key.lower(): value for key, value in headers.items()}.get(
        "x-server-timeout", "70"
    ) == "70"


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_an_answer_without_an_end_is_given_up_by_its_bytes(
    openai: FakeOpenAI, gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr("resources.ai.openai_compatible.ANSWER_BYTES", 1000)
    monkeypatch.setattr("resources.ai.gemini_libraries.ANSWER_BYTES", 1000)
    monkeypatch.setenv("AI_PROVIDERS", provider)
    monkeypatch.setenv("AI_TIMEOUT", "50")  # clients of their own
    openai.deltas = [{"role": "assistant", "reasoning_details": "x" * 3000}]
    gemini.chunks = [chunk("Queues", finish="STOP", modelVersion="x" * 3000)]
    with pytest.raises(ConnectionError, match="larger than it may be"):
        write()


def test_openai_itself_gets_the_newer_limit() -> None:
    generator = OpenAIGenerator("key", "https://eu.api.openai.com/v1", "ft:gpt-4o-mini:ours")
    request = generator._request(Prompt(prompt="x", max_tokens=5), "ft:gpt-4o-mini:ours", set())
    assert request["max_completion_tokens"] == 5
