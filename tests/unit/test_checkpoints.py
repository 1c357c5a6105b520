"""What a checkpoint says, and what the answer of a call that was told to stop means."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any
from uuid import UUID

import pytest

from runyard.apps.answers import Again, Failed, Keep, Meaning, Retry, Step, TooLarge, error_of
from runyard.apps.checkpoints import (
    Checkpoint,
    Dispatch,
    Result,
    function_uuid,
    parse_checkpoint,
    without_stale,
)
from runyard.apps.requests import Call, Memos, event_json
from runyard.apps.run_ids import run_id
from runyard.errors import InvalidOption
from runyard.events import Event

RUN = run_id(7, datetime(2026, 1, 1, tzinfo=UTC))


def op(name: str, data: Any = 1, kind: str = "StepRun", **fields: Any) -> dict[str, Any]:
    return {
        "op": kind,
        "id": sha1(name.encode()).hexdigest(),
        "data": data,
        "userland": {"id": name},
        **fields,
    }


def body(*steps: Any, **changes: Any) -> bytes:
    sent = {"run_id": RUN, "qi_id": "batch-1.3", "generation_id": 3, "steps": list(steps)}
    return json.dumps({**sent, **changes}).encode()


def parsed(*steps: Any, **changes: Any) -> Checkpoint:
    checkpoint = parse_checkpoint(RUN, body(*steps, **changes))
    assert checkpoint is not None
    return checkpoint


def results(*steps: Any) -> list[Result]:
    return list(parsed(*steps).results)


def test_it_names_an_invocation_and_its_dispatch() -> None:
    checkpoint = parsed()
    assert (checkpoint.invocation, checkpoint.batch, checkpoint.dispatch) == (7, "batch-1", 3)


@pytest.mark.parametrize(
    ("sent", "output"),
    [
        (op("a", 5), '{"data":5}'),
        (op("a", None), '{"data":null}'),
        (op("a", {"data": 5}), '{"data":{"data":5}}'),
        (op("a", {"data": 5}, "Step"), '{"data":5}'),
        (op("a", 5, "Step"), '{"data":5}'),
        (op("a", {"error": "x"}, "Step"), '{"error":"x"}'),
        (op("a", "é"), '{"data":"é"}'),
    ],
)
def test_a_result_is_kept_as_the_next_call_shows_it(sent: Mapping[str, Any], output: str) -> None:
    assert results(sent) == [Result("a", output, 0.0)]


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [
        ({"a": 1, "b": 2_500_000_000}, 2.5),
        ({"a": 1}, 0.0),
        ({"b": -1}, 0.0),
        ({"b": True}, 0.0),
        ({"b": 1e30}, 86_400.0),
        ("soon", 0.0),
        (None, 0.0),
    ],
)
def test_a_step_has_taken_as_long_as_the_application_says(timing: Any, seconds: float) -> None:
    assert [result.seconds for result in results(op("a", timing=timing))] == [seconds]


def test_results_stay_in_their_order() -> None:
    assert [result.step for result in results(op("b"), op("a"), op("c"))] == ["b", "a", "c"]


@pytest.mark.parametrize("kind", ["StepPlanned", "DeferAdd", "DeferAbort", "None"])
def test_what_brings_no_result_is_passed_over(kind: str) -> None:
    assert results(op("x", kind=kind), op("a")) == [Result("a", '{"data":1}', 0.0)]


@pytest.mark.parametrize(
    "kind",
    [
        "Sleep",
        "WaitForEvent",
        "InvokeFunction",
        "WaitForSignal",
        "AIGateway",
        "Gateway",
        "StepError",
        "StepFailed",
        "RunComplete",
        "DiscoveryRequest",
        "SyncRunComplete",
        "Unheard",
    ],
)
def test_what_can_only_be_answered_is_refused(kind: str) -> None:
    with pytest.raises(InvalidOption, match=kind):
        parsed(op("a"), op("x", kind=kind))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "cannot be read"),
        (b"[]", "a JSON object"),
        (b"NaN", "cannot be read"),
        (b"[" * 10_000, "cannot be read"),
        (body(op("a", "\ud83d")), "cannot be read"),
        (body(op("a", "x\0")), "NUL"),
        (body({"op": "StepRun", "id": "A" * 40}), "40 hexadecimal digits"),
        (body({"id": "a" * 40}), "without a kind"),
        (body("StepRun"), "without a kind"),
        (body(steps={}), "a list of steps"),
        (body(run_id="01ARZ3NDEKTSV4RRFFQ69G5FAV"), "not the id of the checkpoint's run"),
    ],
)
def test_what_cannot_be_kept_says_why(sent: bytes, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        parse_checkpoint(RUN, sent)


def test_the_path_names_a_run() -> None:
    with pytest.raises(InvalidOption, match="not the id of the checkpoint's run"):
        parse_checkpoint("7", body(run_id="7"))


@pytest.mark.parametrize(
    ("sent", "words"),
    [(body(*[op("a")] * 1_001), "1,001 steps"), (body(op("a", "x" * 4_200_000)), "4 MiB")],
)
def test_what_is_too_large_says_so(sent: bytes, words: str) -> None:
    with pytest.raises(TooLarge, match=words):
        parse_checkpoint(RUN, sent)


@pytest.mark.parametrize(
    "changes",
    [
        {"qi_id": None},
        {"qi_id": ""},
        {"qi_id": "batch-1"},
        {"qi_id": "batch-1."},
        {"qi_id": ".3"},
        {"qi_id": "batch-1.0"},
        {"qi_id": "batch-1.-3"},
        {"qi_id": "batch-1.٣"},
        {"qi_id": "batch-1.9999999999"},
        {"generation_id": 2},
        {"generation_id": None},
        {"generation_id": "3"},
    ],
)
def test_what_names_no_dispatch_is_no_checkpoint(changes: Mapping[str, Any]) -> None:
    assert parse_checkpoint(RUN, body(op("a"), **changes)) is None


def test_an_sdk_that_does_not_repeat_the_number_names_it_all_the_same() -> None:
    sent = json.loads(body())
    del sent["generation_id"]
    checkpoint = parse_checkpoint(RUN, json.dumps(sent).encode())
    assert checkpoint is not None
    assert checkpoint.dispatch == 3


def test_a_function_has_the_same_uuid_always() -> None:
    assert UUID(function_uuid("shop-a")) == UUID(function_uuid("shop-a"))
    assert function_uuid("shop-a") != function_uuid("shop-b")


def test_an_answer_of_a_call_that_was_told_to_stop_ends_no_run() -> None:
    stale = error_of("StaleDispatchError", "checkpoint returned 409")
    assert without_stale(Meaning((Failed(stale),), 2)) == Meaning((Retry(stale),), 2)


@pytest.mark.parametrize(
    "effect", [Failed(error_of("Error", "no")), Again(), Keep(Step("a" * 40, "a"), None)]
)
def test_other_answers_mean_what_they_say(effect: Any) -> None:
    assert without_stale(Meaning((effect,), 2)) == Meaning((effect,), 2)


def called(dispatch: Dispatch | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The context and the headers of a call."""
    events = [event_json(Event("a/b", id="e", ts=1))]
    call = Call(RUN, events, Memos(), dispatch=dispatch)
    return json.loads(call.body())["ctx"], dict(call.headers())


def test_a_call_names_its_dispatch() -> None:
    context, headers = called(Dispatch("8f14e45f-ceea-467f-a0fe-7c1ab0e9d0f3", "batch-1", 3))
    assert context["fn_id"] == "8f14e45f-ceea-467f-a0fe-7c1ab0e9d0f3"
    assert (context["qi_id"], context["generation_id"]) == ("batch-1.3", 3)
    assert headers["x-inngest-generation-id"] == "3"


def test_a_call_that_may_send_no_checkpoints_names_none() -> None:
    context, headers = called(None)
    assert {"fn_id", "qi_id", "generation_id", "job_id"}.isdisjoint(context)
    assert "x-inngest-generation-id" not in headers
