"""What the answers of applications mean, as a table."""

import json
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any

import pytest

from runyard.apps.answers import (
    MAX_ANSWER_BYTES,
    Again,
    Answer,
    Asked,
    Effect,
    Failed,
    Invoke,
    Keep,
    MakeRequest,
    Plan,
    Retry,
    Sleep,
    Step,
    StepFailed,
    Succeeded,
    Unsupported,
    WaitForEvent,
    WaitForSignal,
    interpret,
    step_id,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SDK = {"x-inngest-sdk": "inngest-js:v4.18.1", "x-inngest-req-version": "2"}
FINAL = {**SDK, "x-inngest-no-retry": "true"}
YEAR = 366 * 86_400.0


def hashed(name: str) -> str:
    return sha1(name.encode()).hexdigest()


def op(kind: str, step: str = "first", **more: Any) -> dict[str, Any]:
    return {"op": kind, "id": hashed(step), "userland": {"id": step}, **more}


FIRST = Step(hashed("first"), "first")


def meaning(
    status: int, body: object = b"", headers: dict[str, str] | None = None, **asked: Any
) -> tuple[Effect, ...]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(status, SDK if headers is None else headers, content)
    return interpret(answer, Asked(**asked), NOW).effects


def of_op(given: dict[str, Any], **asked: Any) -> Effect:
    [effect] = meaning(206, [given], **asked)
    return effect


OPS: list[tuple[str, dict[str, Any], Effect]] = [
    ("a result", op("StepRun", data=5), Keep(FIRST, {"data": 5})),
    ("no result", op("StepRun"), Keep(FIRST, {"data": None})),
    (
        "a result that looks wrapped",
        op("StepRun", data={"data": 1}),
        Keep(FIRST, {"data": {"data": 1}}),
    ),
    ("an old result", op("Step", data=5), Keep(FIRST, {"data": 5})),
    ("an old wrapped result", op("Step", data={"data": 5}), Keep(FIRST, {"data": 5})),
    (
        "an old result with both",
        op("Step", data={"data": 5, "error": None}),
        Keep(FIRST, {"data": {"data": 5, "error": None}}),
    ),
    ("a plan", op("StepPlanned"), Plan(FIRST)),
    ("a sleep, as JavaScript writes it", op("Sleep", name="1h30m5s"), Sleep(FIRST, seconds=5405)),
    (
        "a sleep, as Go writes it",
        op("Sleep", name="x", opts={"duration": "1.5s"}),
        Sleep(FIRST, seconds=1.5),
    ),
    ("a sleep of no time", op("Sleep"), Sleep(FIRST, seconds=0)),
    (
        "a sleep until a time",
        op("Sleep", name="2026-03-01T12:00:10.000Z"),
        Sleep(FIRST, until=NOW.timestamp() + 10),
    ),
    (
        "a sleep until a time that no database has",
        op("Sleep", name="9999-12-31T23:59:59Z"),
        Sleep(FIRST, until=NOW.timestamp() + YEAR),
    ),
    (
        "a wait, as JavaScript writes it",
        op("WaitForEvent", name="shop/paid", opts={"timeout": "2d"}),
        WaitForEvent(FIRST, "shop/paid", None, Sleep(FIRST, seconds=172_800)),
    ),
    (
        "a wait, as Go writes it",
        op("WaitForEvent", name="ignored", opts={"event": "shop/paid", "timeout": "2d"}),
        WaitForEvent(FIRST, "shop/paid", None, Sleep(FIRST, seconds=172_800)),
    ),
    (
        "a wait with a condition",
        op("WaitForEvent", name="a", opts={"timeout": "1s", "if": "async.data.n == 5"}),
        WaitForEvent(FIRST, "a", "async.data.n == 5", Sleep(FIRST, seconds=1)),
    ),
    (
        "an invocation",
        op("InvokeFunction", opts={"function_id": "shop-tax", "payload": {"data": {"n": 1}}}),
        Invoke(FIRST, "shop-tax", {"data": {"n": 1}}, Sleep(FIRST, seconds=YEAR)),
    ),
    ("the end", op("RunComplete", data={"ok": True}), Succeeded({"ok": True})),
    ("a request to be called again", {"op": "DiscoveryRequest"}, Again()),
    (
        "a failed step that may not be tried again",
        op("StepFailed", error={"name": "Oops", "message": "no"}),
        Keep(FIRST, {"error": {"name": "Oops", "message": "no"}}),
    ),
    (
        "an error without a name",
        op("StepError", error={"message": "no"}),
        StepFailed(FIRST, {"name": "Error", "message": "no"}),
    ),
    (
        "a request to an AI service",
        op("AIGateway", opts={"url": "https://ai.example"}),
        MakeRequest(FIRST, True, {"url": "https://ai.example"}),
    ),
    (
        "the same as the specification names it",
        op("AiGateway", opts={"url": "https://ai.example"}),
        MakeRequest(FIRST, True, {"url": "https://ai.example"}),
    ),
    (
        "a request",
        op("Gateway", opts={"url": "https://a.example", "method": "GET"}),
        MakeRequest(FIRST, False, {"url": "https://a.example", "method": "GET"}),
    ),
    (
        "a wait for a signal",
        op("WaitForSignal", opts={"signal": "go", "timeout": "1h", "conflict": "fail"}),
        WaitForSignal(FIRST, "go", False, Sleep(FIRST, seconds=3_600.0)),
    ),
    (
        "a wait that takes the place of another",
        op("WaitForSignal", name="go", opts={"timeout": "", "conflict": "replace"}),
        WaitForSignal(FIRST, "go", True, Sleep(FIRST, seconds=0.0)),
    ),
    (
        "a wait for a signal that cannot be",
        op("WaitForSignal", opts={"signal": "x" * 1_025, "timeout": "1h"}),
        Unsupported(FIRST, "a signal has a name of 1 to 1,024 bytes"),
    ),
]


@pytest.mark.parametrize(("what", "given", "effect"), OPS, ids=[what for what, *_ in OPS])
def test_a_step_has_its_effect(what: str, given: dict[str, Any], effect: Effect) -> None:
    assert of_op(given) == effect


def test_a_single_step_may_come_without_a_list() -> None:
    assert meaning(206, op("StepPlanned")) == (Plan(FIRST),)


def test_the_last_error_of_a_step_is_its_result() -> None:
    given = op("StepError", error={"name": "Oops", "message": "no", "stack": "at x"})
    memo = {"error": {"name": "Oops", "message": "no", "stack": "at x"}}
    assert of_op(given, attempt=3, max_attempts=4) == Keep(FIRST, memo)


def test_an_error_of_a_step_that_must_not_be_repeated_is_its_result() -> None:
    body = [op("StepError", error={"name": "Oops", "message": "no"})]
    [effect] = meaning(206, body, FINAL)
    assert effect == Keep(FIRST, {"error": {"name": "Oops", "message": "no"}})


def test_an_error_of_a_step_may_say_when_to_try_again() -> None:
    body = [op("StepError", error={"name": "Oops", "message": "no"})]
    [effect] = meaning(206, body, {**SDK, "retry-after": "20"})
    assert effect == StepFailed(FIRST, {"name": "Oops", "message": "no"}, 20)


def test_a_step_used_again_has_its_number() -> None:
    given = {"op": "StepPlanned", "id": hashed("pay:1"), "userland": {"id": "pay", "index": 1}}
    assert of_op(given) == Plan(Step(hashed("pay:1"), "pay:1"))


def test_a_name_that_does_not_fit_the_id_is_not_taken() -> None:
    given = {**op("StepPlanned"), "userland": {"id": "another"}}
    assert of_op(given) == Plan(Step(hashed("first"), hashed("first")))


def test_a_name_that_looks_like_an_id_is_not_taken() -> None:
    name = hashed("whatever")
    assert of_op(op("StepPlanned", name)) == Plan(Step(hashed(name), hashed(name)))


def test_the_id_of_a_step_follows_from_the_name_under_which_it_is_kept() -> None:
    assert [step_id("first"), step_id(hashed("x"))] == [hashed("first"), hashed("x")]


def test_what_waits_for_events_comes_first() -> None:
    wait = op("WaitForEvent", "wait", name="a")
    body = [op("StepPlanned", "plan"), wait, op("Sleep", "nap")]
    assert [type(effect).__name__ for effect in meaning(206, body)] == [
        "WaitForEvent",
        "Plan",
        "Sleep",
    ]


def test_a_race_is_noted() -> None:
    [effect] = meaning(206, [op("StepPlanned", opts={"parallelMode": "race"})])
    assert effect == Plan(Step(FIRST.id, "first", is_race=True))


@pytest.mark.parametrize("body", [[], [{"op": "None"}], [op("DeferAdd")]])
def test_nothing_to_do_has_no_effect(body: object) -> None:
    assert meaning(206, body) == ()


def test_the_version_of_the_sdk_is_noted() -> None:
    assert interpret(Answer(206, SDK, b"[]"), Asked(), NOW).version == 2


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'"text"\n', "text"),
        (b"", None),
        (b"null", None),
        (b"plain text", "plain text"),
        (b"5", 5),
    ],
)
def test_a_function_that_returns_has_succeeded(body: bytes, output: object) -> None:
    assert meaning(200, body) == (Succeeded(output),)


def test_a_function_that_threw_is_called_again() -> None:
    body = {"name": "TypeError", "message": "x is undefined", "stack": "at y"}
    assert meaning(500, body) == (Retry(body),)


def test_a_function_that_threw_may_say_when_to_call_it_again() -> None:
    body = {"name": "RetryAfterError", "message": "busy"}
    headers = {**SDK, "retry-after": "2026-03-01T12:01:00Z"}
    assert meaning(500, body, headers) == (Retry(body, 60),)


def test_the_last_attempt_fails() -> None:
    body = {"name": "Error", "message": "no"}
    assert meaning(500, body, attempt=3, max_attempts=4) == (Failed(body),)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_function_that_must_not_be_called_again_has_failed(status: int) -> None:
    body = {"name": "NonRetriableError", "message": "no"}
    assert meaning(status, body, FINAL) == (Failed(body),)


def test_an_error_of_the_client_without_the_header_is_repeated() -> None:
    [effect] = meaning(404, {"message": "no such function"})
    assert effect == Retry({"name": "Error", "message": "no such function"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 1),
        ("9999999", 86_400),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("2026-03-01T11:00:00Z", 1),
        ("soon", None),
        ("99999999999", None),
    ],
)
def test_when_to_try_again_is_bounded(text: str, seconds: float | None) -> None:
    [effect] = meaning(500, {"message": "x"}, {**SDK, "retry-after": text})
    assert isinstance(effect, Retry)
    assert effect.after == seconds


def streamed(
    status: int, body: object, headers: dict[str, str] | None = None, **more: Any
) -> bytes:
    return (
        b"   \n"
        + json.dumps({"status": status, "headers": headers or {}, "body": body, **more}).encode()
    )


def test_a_streamed_answer_holds_the_answer() -> None:
    body = streamed(206, json.dumps([op("StepPlanned")]), {"X-Inngest-Req-Version": "1"})
    found = interpret(Answer(201, {"x-inngest-sdk": "js"}, body), Asked(), NOW)
    assert (found.effects, found.version) == ((Plan(FIRST),), 1)


def test_a_streamed_answer_may_hold_json_itself() -> None:
    assert meaning(201, streamed(206, [op("StepPlanned")])) == (Plan(FIRST),)


def test_a_streamed_error_may_be_final() -> None:
    body = streamed(400, {"name": "Error", "message": "no"}, noRetry=True)
    assert meaning(201, body) == (Failed({"name": "Error", "message": "no"}),)


def test_a_streamed_error_may_be_mere_text() -> None:
    body = (
        b'{"status":500,"body":"error calling function: boom","retryAt":null,"noRetry":false,'
        b'"headers":null}'
    )
    error = {"name": "Error", "message": "error calling function: boom"}
    assert meaning(201, body, {"x-inngest-sdk": "go:v0.16.0"}) == (Retry(error),)


def test_the_value_beside_an_error_of_a_step_is_kept_even_if_it_is_null() -> None:
    # The SDK for Go cannot read the error without it.
    body = (
        b'[{"op":"StepFailed","id":"1902e3d6fc4e78a0bcc50ba12b882769afbf4a8c","name":"bad",'
        b'"opts":null,"data":null,"error":{"name":"Step failed","message":"no","data":null},'
        b'"displayName":null,"timing":{"a":1795718239988739219,"b":765},"userland":{"id":"bad"}}]'
    )
    [effect] = meaning(206, body)
    assert isinstance(effect, Keep)
    assert effect.memo == {"error": {"name": "Step failed", "message": "no", "data": None}}


def test_a_streamed_answer_without_a_status_is_repeated() -> None:
    [effect] = meaning(201, b"   ")
    assert isinstance(effect, Retry)


BAD: list[tuple[str, Answer, str]] = [
    ("nothing", Answer(0, problem="connection refused"), "connection refused"),
    ("a page", Answer(200, {}, b"<html>hello</html>"), "did not come from an Inngest SDK"),
    ("a page as steps", Answer(206, {}, b"<html>"), "did not come from an Inngest SDK"),
    ("no JSON", Answer(206, SDK, b"[{"), "the answer is no JSON"),
    ("an empty body", Answer(206, SDK, b""), "the answer is no JSON"),
    ("a number", Answer(206, SDK, b"5"), "has no steps"),
    ("an unknown kind", Answer(206, SDK, b'[{"op": "Dance", "id": "x"}]'), "unknown kind 'Dance'"),
    ("a strange id", Answer(206, SDK, b'[{"op": "StepRun", "id": "x"}]'), "40 hexadecimal digits"),
    ("a bad gateway", Answer(502, {}, b"<html>Bad Gateway</html>"), "HTTP 502"),
    ("no signature", Answer(401, {}, b"{}"), "the same signing key"),
    (
        "no keys",
        Answer(500, {}, b'{"code":"internal_server_error"}'),
        "has to be started with INNGEST_DEV",
    ),
    ("nothing there", Answer(404, {}, b"Not found"), "is the application synced?"),
    ("a deep answer", Answer(206, SDK, b"[" * 100_000), "the answer is no JSON"),
    ("a large answer", Answer(206, SDK, b" " * (MAX_ANSWER_BYTES + 1)), "8 MiB"),
    ("half a character", Answer(206, SDK, b'[{"op":"StepRun","data":"\\ud83d"}]'), "is no JSON"),
    (
        "too many steps",
        Answer(206, SDK, json.dumps([op("StepPlanned", str(n)) for n in range(1001)]).encode()),
        "the limit is 1,000",
    ),
    (
        "a large result",
        Answer(206, SDK, json.dumps([op("StepRun", data="x" * 4_200_000)]).encode()),
        "4 MiB",
    ),
    (
        "no time",
        Answer(206, SDK, json.dumps([op("Sleep", name="soon")]).encode()),
        "is not a duration",
    ),
]


@pytest.mark.parametrize(("what", "answer", "reason"), BAD, ids=[what for what, *_ in BAD])
def test_what_no_sdk_answers_is_repeated_and_says_why(
    what: str, answer: Answer, reason: str
) -> None:
    [effect] = interpret(answer, Asked(), NOW).effects
    assert isinstance(effect, Retry)
    assert reason in effect.error["message"]


def test_a_condition_that_is_no_expression_fails_its_step() -> None:
    effect = of_op(op("WaitForEvent", name="a", opts={"if": "async.data.n ="}))
    assert isinstance(effect, Unsupported)


@pytest.mark.parametrize("body", [b'[{"op": "Gateway", "opts": {"auth', b'[5, {"op": "Gateway"}]'])
def test_an_answer_that_may_hold_keys_is_not_shown(body: bytes) -> None:
    [retry] = meaning(206, body)
    assert isinstance(retry, Retry)
    assert "is not shown" in retry.error["message"]
