"""What an application's answer to a call means: what to keep, what to do next.

`interpret` is a pure function, from an answer to effects. It does not trust the answer: whatever
cannot come from an SDK is an error of the call, which is retried, and never a success.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha1
from typing import Any

import pydantic_core

from runyard.engine.signals import MAX_SIGNAL_BYTES, is_signal
from runyard.engine.steps import MAX_STEP_BYTES, MAX_STEP_NAME
from runyard.errors import InvalidOption, RunyardError
from runyard.events import MAX_NAME
from runyard.syntax.durations import YEAR, seconds
from runyard.syntax.expressions import parse_expression
from runyard.text.error_text import fit
from runyard.text.storable import is_storable

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_OPS = 1_000
# Bounds of a wait that the application asks for before another attempt, in seconds.
_LEAST_WAIT, _MOST_WAIT = 1.0, 86_400.0
_SHOWN = 300
_MAX_TEXT = 8_192
_STEP_ID = re.compile(r"[0-9a-f]{40}")
_STREAMED = 201
_OPS = 206


@dataclass(frozen=True)
class Answer:
    """What came back from an application.

    Attributes
    ----------
    status
        The HTTP status; 0 when nothing came.
    headers
        The headers, by their names in lower case.
    body
        The body.
    problem
        Without an answer: why, in words.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class Asked:
    """The call that was answered.

    Attributes
    ----------
    step
        The id of the step that was to run; None when the function was to go on wherever it is.
    attempt
        The number of this attempt, from 0.
    max_attempts
        How many there are at most.
    """

    step: str | None = None
    attempt: int = 0
    max_attempts: int = 4

    @property
    def is_last(self) -> bool:
        """Whether there is no other attempt."""
        return self.attempt + 1 >= self.max_attempts


@dataclass(frozen=True)
class Step:
    """A step as an answer names it.

    Attributes
    ----------
    id
        Its id in the protocol.
    name
        The name by which it is kept.
    is_race
        Whether the function goes on when this one of several parallel steps is done.
    """

    id: str
    name: str
    is_race: bool = False


@dataclass(frozen=True)
class Keep:
    """A step is done: `memo` is what the next calls show the application for it."""

    step: Step
    memo: Any


@dataclass(frozen=True)
class StepFailed:
    """A try of a step failed, and there is another one, after so many seconds if it says so."""

    step: Step
    error: Mapping[str, Any]
    after: float | None = None


@dataclass(frozen=True)
class Plan:
    """A step is to run in a call of its own, beside the others."""

    step: Step


@dataclass(frozen=True)
class Sleep:
    """Go on after so many seconds, or at a time in seconds since the epoch."""

    step: Step
    seconds: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class WaitForEvent:
    """Go on with an event of this name that meets the expression, or after the timeout."""

    step: Step
    event: str
    condition: str | None
    timeout: Sleep


@dataclass(frozen=True)
class WaitForSignal:
    """Go on when this signal is sent, or after the timeout.

    `replaces` says what happens if another run waits for the signal: whether this wait takes the
    place of the other, or fails the run.
    """

    step: Step
    signal: str
    replaces: bool
    timeout: Sleep


@dataclass(frozen=True)
class Invoke:
    """Go on when another function, by its id (`app-function`), has ended."""

    step: Step
    function: str
    payload: Mapping[str, Any]
    timeout: Sleep


@dataclass(frozen=True)
class MakeRequest:
    """A step is a request that is made in place of the application.

    `options` say which one, and may hold keys: they are neither kept nor shown. `is_ai` is whether
    an AI service is asked.
    """

    step: Step
    is_ai: bool
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Unsupported:
    """A step of a kind that does not exist here: it fails for good, in words."""

    step: Step
    message: str


@dataclass(frozen=True)
class Again:
    """Call the function again, as a first attempt."""


@dataclass(frozen=True)
class Succeeded:
    """The function has returned."""

    output: Any


@dataclass(frozen=True)
class Failed:
    """The function has failed for good."""

    error: Mapping[str, Any]


@dataclass(frozen=True)
class Retry:
    """The call failed, and there is another attempt, after so many seconds if it says so."""

    error: Mapping[str, Any]
    after: float | None = None


Effect = (
    Keep
    | StepFailed
    | Plan
    | Sleep
    | WaitForEvent
    | WaitForSignal
    | Invoke
    | MakeRequest
    | Unsupported
    | Again
    | Succeeded
    | Failed
    | Retry
)


@dataclass(frozen=True)
class Meaning:
    """What an answer means.

    Attributes
    ----------
    effects
        What to do, in this order. Several steps at once are parallel ones.
    version
        The version of the SDK's way of running parallel steps; None when it said none.
    """

    effects: tuple[Effect, ...]
    version: int | None = None


class _NoAnswer(Exception):
    """The answer cannot be that of an SDK; the message says why."""


class _LargeResult(_NoAnswer):
    """The result of a step is too large to be kept."""


class TooLarge(RunyardError):
    """What an application has sent is too large to be kept; the message says what it is."""


def interpret(answer: Answer, asked: Asked, now: datetime | None = None) -> Meaning:
    """Return what an answer means.

    Parameters
    ----------
    answer
        What came back.
    asked
        What was asked.
    now
        The time against which dates in the answer are taken; the present one by default.
    """
    at = now or datetime.now(UTC)
    try:
        if not answer.status:
            raise _NoAnswer(answer.problem or "the application did not answer")
        answer = _unwrapped(answer)
        return Meaning(tuple(_effects(answer, asked, at)), _version(answer))
    except _NoAnswer as problem:
        error = error_of("NoAnswer", str(problem))
        return Meaning((_after_failure(error, asked, _wait_of(answer, at)),))


def results_of(ops: Sequence[object]) -> Sequence[tuple[Keep, Mapping[str, Any]]]:
    """Return the results among the ops of a checkpoint, each with its op.

    Raises `InvalidOption` for what can only be answered, and `TooLarge`.
    """
    results: list[tuple[Keep, Mapping[str, Any]]] = []
    for op in ops:
        kind = op.get("op") if isinstance(op, dict) else None
        if not isinstance(op, dict) or not isinstance(kind, str):
            raise InvalidOption("a checkpoint has a step without a kind (op)")
        if kind in _UNNOTED:
            continue
        if kind not in ("StepRun", "Step"):
            raise InvalidOption(f"a checkpoint brings results, and no step of the kind {kind[:50]}")
        try:
            keep = _MAKERS[kind](op, _NO_CONTEXT)
        except _LargeResult as problem:
            raise TooLarge(str(problem)) from None
        except _NoAnswer as problem:
            raise InvalidOption(str(problem)) from None
        assert isinstance(keep, Keep)
        results.append((keep, op))
    return results


def _unwrapped(answer: Answer) -> Answer:
    """Return a streamed answer (201) as the answer that its body holds."""
    if answer.status != _STREAMED or not _is_of_sdk(answer):
        return answer
    body = _json(answer.body.strip() or b"null")
    if not isinstance(body, dict) or not isinstance(body.get("status"), int):
        raise _NoAnswer(f"a streamed answer has a status, and this one is {_shown(answer.body)}")
    raw = body.get("headers")
    headers = dict(answer.headers)
    if isinstance(raw, dict):
        headers.update({str(name).lower(): str(value) for name, value in raw.items()})
    if body.get("noRetry") is True:  # the SDK for Go has these beside the headers
        headers["x-inngest-no-retry"] = "true"
    if isinstance(body.get("retryAt"), str):
        headers["retry-after"] = body["retryAt"]
    inner = body.get("body")
    text = inner if isinstance(inner, str) else json.dumps(inner)
    if body["status"] >= 400 and isinstance(inner, str) and not inner.lstrip().startswith("{"):
        text = json.dumps({"message": inner})  # the SDK for Go streams errors as mere text
    return Answer(body["status"], headers, text.encode("utf-8", "replace"))


def _effects(answer: Answer, asked: Asked, at: datetime) -> Sequence[Effect]:
    if answer.status == _OPS:
        return _of_ops(answer, asked, at)
    is_success = 200 <= answer.status < 300
    if is_success and not _is_of_sdk(answer):
        raise _NoAnswer(
            f"the answer (HTTP {answer.status}) did not come from an Inngest SDK, but is"
            f" {_shown(answer.body)}: is the application served at this URL?"
        )
    if is_success and not _has_no_retry(answer):
        return [Succeeded(_output(answer.body))]
    error = _error_of_answer(answer)
    if _has_no_retry(answer):
        return [Failed(error)]
    return [_after_failure(error, asked, _wait_of(answer, at))]


def _of_ops(answer: Answer, asked: Asked, at: datetime) -> Sequence[Effect]:
    if not _is_of_sdk(answer):
        raise _NoAnswer(
            f"the answer (HTTP {_OPS}) did not come from an Inngest SDK, but is"
            f" {_shown(answer.body)}"
        )
    body = _json(answer.body)
    ops = body if isinstance(body, list) else [body]
    if len(ops) > MAX_OPS:
        raise _NoAnswer(f"the answer has {len(ops):,} steps, and the limit is {MAX_OPS:,}")
    effects: list[Effect] = []
    for op in ops:
        if not isinstance(op, dict) or not isinstance(op.get("op"), str):
            raise _NoAnswer(f"the answer has no steps, but {_shown(answer.body)}")
        make = _MAKERS.get(op["op"])
        if make is None:
            raise _NoAnswer(f"the answer has a step of the unknown kind {op['op'][:50]!r}")
        effect = make(op, _Context(asked, answer, at))
        if effect is not None:
            effects.append(effect)
    # What waits for events and signals is registered first, so that none that another step causes
    # slips past.
    return sorted(effects, key=lambda effect: not isinstance(effect, WaitForEvent | WaitForSignal))


@dataclass(frozen=True)
class _Context:
    asked: Asked
    answer: Answer
    at: datetime


def _step_run(op: Mapping[str, Any], _: _Context) -> Effect:
    data = op.get("data")
    _check_size(op, data)
    return Keep(_step(op), {"data": data})


def _old_step(op: Mapping[str, Any], _: _Context) -> Effect:
    data = op.get("data")
    _check_size(op, data)
    is_wrapped = isinstance(data, dict) and len(data) == 1 and next(iter(data)) in ("data", "error")
    return Keep(_step(op), data if is_wrapped else {"data": data})


def _step_error(op: Mapping[str, Any], context: _Context) -> Effect:
    error = _error_of_op(op)
    if _has_no_retry(context.answer):
        return Keep(_step(op), {"error": error})
    return failed_try(_step(op), error, context.answer, context.asked, context.at)


def failed_try(
    step: Step, error: Mapping[str, Any], answer: Answer, asked: Asked, at: datetime
) -> Keep | StepFailed:
    """Return what the failed try of a step means: there is another one, or this was the last."""
    if asked.is_last:
        return Keep(step, {"error": error})
    return StepFailed(step, error, _wait_of(answer, at))


def _step_failed(op: Mapping[str, Any], _: _Context) -> Effect:
    return Keep(_step(op), {"error": _error_of_op(op)})


def _plan(op: Mapping[str, Any], _: _Context) -> Effect:
    return Plan(_step(op))


def _sleep(op: Mapping[str, Any], context: _Context) -> Effect:
    text = _options(op).get("duration") or op.get("name") or ""
    return _time(_step(op), text, context.at)


def _wait_for_event(op: Mapping[str, Any], context: _Context) -> Effect:
    step, options = _step(op), _options(op)
    event = options.get("event") or op.get("name")
    if not isinstance(event, str) or not 1 <= len(event) <= MAX_NAME or not is_storable(event):
        raise _NoAnswer(f"step {step.name} waits for an event without a name")
    condition = options.get("if")
    try:
        if condition:
            parse_expression(condition, f"if of step {step.name}")
    except InvalidOption as error:
        return Unsupported(step, str(error))
    timeout = _time(step, options.get("timeout") or "", context.at)
    return WaitForEvent(step, event, condition or None, timeout)


def _wait_for_signal(op: Mapping[str, Any], context: _Context) -> Effect:
    step, options = _step(op), _options(op)
    signal = options.get("signal") or op.get("name")
    if not isinstance(signal, str) or not is_signal(signal):
        return Unsupported(step, f"a signal has a name of 1 to {MAX_SIGNAL_BYTES:,} bytes")
    timeout = _time(step, options.get("timeout") or "", context.at)
    return WaitForSignal(step, signal, options.get("conflict") == "replace", timeout)


def _invoke(op: Mapping[str, Any], context: _Context) -> Effect:
    step, options = _step(op), _options(op)
    function, payload = options.get("function_id"), options.get("payload")
    if not isinstance(function, str) or not function:
        raise _NoAnswer(f"step {step.name} invokes a function without an id")
    timeout = options.get("timeout")
    limit = Sleep(step, seconds=YEAR) if not timeout else _time(step, timeout, context.at)
    return Invoke(step, function, payload if isinstance(payload, dict) else {}, limit)


def _ai_request(op: Mapping[str, Any], _: _Context) -> Effect:
    return MakeRequest(_step(op), True, _options(op))


def _request(op: Mapping[str, Any], _: _Context) -> Effect:
    return MakeRequest(_step(op), False, _options(op))


def _run_complete(op: Mapping[str, Any], _: _Context) -> Effect:
    return Succeeded(op.get("data"))


def _nothing(_op: Mapping[str, Any], _: _Context) -> None:
    return None


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], _Context], Effect | None]] = {
    "StepRun": _step_run,
    "Step": _old_step,
    "StepError": _step_error,
    "StepFailed": _step_failed,
    "StepPlanned": _plan,
    "Sleep": _sleep,
    "WaitForEvent": _wait_for_event,
    "InvokeFunction": _invoke,
    "RunComplete": _run_complete,
    "DiscoveryRequest": lambda _op, _context: Again(),
    "WaitForSignal": _wait_for_signal,
    "AIGateway": _ai_request,
    "AiGateway": _ai_request,
    "Gateway": _request,
    "DeferAdd": _nothing,
    "DeferAbort": _nothing,
    "None": _nothing,
}


# What a checkpoint may hold beside results: a step that is about to run, and what is not used.
_UNNOTED = ("StepPlanned", "DeferAdd", "DeferAbort", "None")
_NO_CONTEXT = _Context(Asked(), Answer(0), datetime.min.replace(tzinfo=UTC))


def _step(op: Mapping[str, Any]) -> Step:
    """Return the step of an op, under the name that its author gave it if that fits its id."""
    id = op.get("id")
    if not isinstance(id, str) or _STEP_ID.fullmatch(id) is None:
        raise _NoAnswer(f"a step has the id {str(id)[:60]!r}, and not 40 hexadecimal digits")
    written = op.get("userland")
    name, index = (
        (written.get("id"), written.get("index")) if isinstance(written, dict) else ("", 0)
    )
    if isinstance(name, str) and isinstance(index, int) and index:
        name = f"{name}:{index}"
    is_race = _options(op).get("parallelMode") == "race"
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_STEP_NAME or not is_storable(name):
        return Step(id, id, is_race)
    # A name that looks like an id would be taken for one when the step is read again.
    is_readable = _STEP_ID.fullmatch(name) is None and step_id(name) == id
    return Step(id, name if is_readable else id, is_race)


def step_id(name: str) -> str:
    """Return the id of a step that is kept under a name: the name's SHA-1, or the id itself."""
    if _STEP_ID.fullmatch(name):
        return name
    return sha1(name.encode(), usedforsecurity=False).hexdigest()


def _options(op: Mapping[str, Any]) -> Mapping[str, Any]:
    options = op.get("opts")
    return options if isinstance(options, dict) else {}


def _time(step: Step, text: object, at: datetime) -> Sleep:
    """Return a duration or a date, as the SDKs write both; nothing is no time at all."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = f"{text}ms"
    if not isinstance(text, str):
        raise _NoAnswer(f"step {step.name} waits for {str(text)[:50]!r}, which is not a time")
    if not text:
        return Sleep(step, seconds=0.0)
    until = _date(text)
    if until is not None:
        return Sleep(step, until=min(until.timestamp(), at.timestamp() + YEAR))
    try:
        return Sleep(step, seconds=seconds(text, f"step {step.name}"))
    except InvalidOption as error:
        raise _NoAnswer(str(error)) from None


def _date(text: str) -> datetime | None:
    if not re.match(r"[0-9]{4}-", text):
        return None
    try:
        date = datetime.fromisoformat(text[:40])
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _wait_of(answer: Answer, at: datetime) -> float | None:
    """Return the seconds of `retry-after`: a number, an ISO date, or a date of HTTP."""
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    wait: float | None = None
    if len(text) <= 7 and re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        wait = float(text)
    elif (date := _date(text) or _http_date(text)) is not None:
        wait = (date - at).total_seconds()
    return None if wait is None else min(max(wait, _LEAST_WAIT), _MOST_WAIT)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text[:60])
    except (ValueError, TypeError, IndexError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _version(answer: Answer) -> int | None:
    text = answer.headers.get("x-inngest-req-version", "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,3}", text) else None


def _is_of_sdk(answer: Answer) -> bool:
    return bool(answer.headers.get("x-inngest-sdk"))


def _has_no_retry(answer: Answer) -> bool:
    return answer.headers.get("x-inngest-no-retry", "").lower() == "true"


def _after_failure(error: Mapping[str, Any], asked: Asked, after: float | None) -> Effect:
    return Failed(error) if asked.is_last else Retry(error, after)


def _output(body: bytes) -> Any:
    """Return what a function returned: JSON, or text."""
    try:
        return _json(body) if body.strip() else None
    except _NoAnswer:
        return fit(body.decode("utf-8", "replace"), MAX_STEP_BYTES // 4)


def _json(body: bytes) -> Any:
    if len(body) > MAX_ANSWER_BYTES:
        raise _NoAnswer(
            f"the answer has {len(body):,} bytes, and the limit is {MAX_ANSWER_BYTES:,} (8 MiB)"
        )
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _NoAnswer(f"the answer is no JSON ({str(error)[:100]}), but {_shown(body)}") from None


def _check_size(op: Mapping[str, Any], data: Any) -> None:
    size = len(pydantic_core.to_json(data, inf_nan_mode="null"))
    if size > MAX_STEP_BYTES:
        raise _LargeResult(
            f"the result of step {_step(op).name} has {size:,} bytes, and the limit is"
            f" {MAX_STEP_BYTES:,} (4 MiB): return where it is stored"
        )


def _error_of_op(op: Mapping[str, Any]) -> Mapping[str, Any]:
    error = op.get("error")
    return _normalized(error if isinstance(error, dict) else {"message": str(error)})


def _error_of_answer(answer: Answer) -> Mapping[str, Any]:
    """Return the error that an answer tells, or what it is about in words."""
    try:
        body = _json(answer.body)
    except _NoAnswer:
        body = None
    if isinstance(body, str):  # the SDK for JavaScript once sent JSON within JSON
        try:
            body = _json(body.encode())
        except _NoAnswer:
            body = {"message": body}
    if _is_of_sdk(answer) and isinstance(body, dict):
        return _normalized(body)
    message = f"the application answered HTTP {answer.status}: {_shown(answer.body)}"
    if answer.status == 401:
        message = "the application refuses our signature: do both have the same signing key?"
    elif answer.status in (404, 410):
        message = f"nothing is served there (HTTP {answer.status}): is the application synced?"
    elif isinstance(body, dict) and body.get("code") == "internal_server_error":
        # What the SDK for JavaScript answers when it cannot even begin.
        message = (
            f"the application's SDK does not work (HTTP {answer.status}): its own log says why. One"
            " without keys has to be started with INNGEST_DEV"
        )
    return error_of("NoAnswer", message)


def _normalized(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an error as all SDKs read it: a name and a message, and what else it has."""
    name, message = error.get("name"), error.get("message")
    kept = {key: error[key] for key in ("data", "cause") if error.get(key) is not None}
    if "data" in error:  # the SDK for Go reads an error with null, and none without the field
        kept.setdefault("data", None)
    stack = error.get("stack")
    if isinstance(stack, str):
        kept["stack"] = fit(stack, _MAX_TEXT)
    return error_of(
        name if isinstance(name, str) and name else "Error",
        message if isinstance(message, str) else json.dumps(message),
        **kept,
    )


def error_of(name: str, message: str, **more: Any) -> Mapping[str, Any]:
    """Return an error as the protocol has it."""
    return {"name": fit(name, 200), "message": fit(message, _MAX_TEXT), **more}


def _shown(body: bytes) -> str:
    if b"Gateway" in body:
        return "a step that asks for a request, which may hold keys and is not shown"
    text = body[: 4 * _SHOWN].decode("utf-8", "replace")
    return repr(fit(" ".join(text.split()), _SHOWN)) if text.strip() else "nothing"
