"""Drives the invocations of a batch through a remote function, hundreds of calls at a time.

Each invocation is on its own way (`journey`): what its calls answer is kept before the next call,
and as soon as it has ended, waits, or failed, it leaves the batch. A call that takes long holds up
none of the others.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from runyard import clock
from runyard.apps import call_traces, catalog
from runyard.apps.answers import (
    Answer,
    Asked,
    Failed,
    Invoke,
    Keep,
    MakeRequest,
    Meaning,
    Sleep,
    StepFailed,
    Succeeded,
    WaitForEvent,
    WaitForSignal,
    error_of,
    interpret,
    step_id,
)
from runyard.apps.answers import Step as RemoteStep
from runyard.apps.call_loop import call_loop, in_thread
from runyard.apps.calls import Caller
from runyard.apps.checkpoints import Dispatch, function_uuid, without_stale
from runyard.apps.gateways import make_request
from runyard.apps.journey import Journey, Next, Todo, Wait
from runyard.apps.requests import GO_ON, Call, Memos, call_url, event_json
from runyard.apps.run_ids import run_id
from runyard.apps.signatures import SigningKey, signed_headers
from runyard.apps.trust import signing_keys
from runyard.apps.writer import Writer, Written, pair_row
from runyard.engine import waits
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState, Item, log_fields
from runyard.engine.settlement import Outcome
from runyard.engine.signals import is_taken
from runyard.engine.steps import StepSpan, encode
from runyard.engine.wait_registration import finished_waits
from runyard.errors import (
    Cancelled,
    DatabaseUnavailable,
    NonRetriable,
    NothingToDo,
    RunyardError,
)
from runyard.events import as_json, new_ulid
from runyard.functions.retry import Retry
from runyard.store.queries import Row
from runyard.text.json_lines import working_on

_OP = "call"
_dice = random.Random()


@dataclass(frozen=True)
class Target:
    """What is called for the invocations of a function.

    Attributes
    ----------
    app, slug, url
        The application, the function's id in the protocol, and the URL that is called.
    retry
        When failed calls and steps are repeated.
    keys
        The signing keys; none in development.
    """

    app: str
    slug: str
    url: str
    retry: Retry
    keys: Sequence[SigningKey]


def target_of(function: str) -> Target:
    """Return what is called for a function; raises `NothingToDo` when no application has it."""
    remote = catalog.remote_function(function)
    if remote is None:
        raise NothingToDo(
            f"no application has the function {function} any more: sync the one that had it, with"
            " `runyard apps sync URL`"
        )
    return Target(remote.app, remote.slug, remote.url, remote.function.retry, signing_keys())


def drive(state: BatchState, items: Sequence[Item], remote: Target) -> None:
    """Make all calls of a batch; return when each invocation has ended or left it.

    What became of them is in `state.settled`, and the errors in `state.failures`. Raises
    `LeaseLost`.
    """

    async def run(caller: Caller) -> None:
        await _Drive(state, items, remote, caller).run()

    call_loop.run(run, state.check_lease, state.lease.telling)


class _Drive:
    def __init__(
        self, state: BatchState, items: Sequence[Item], remote: Target, caller: Caller
    ) -> None:
        self._state = state
        self._items = items
        self._remote = remote
        self._caller = caller

    async def run(self) -> None:
        over: dict[int, list[Row]] = {item.id: [] for item in self._items}
        ids = list(over)
        for row in await in_thread(lambda: finished_waits(self._state.id, self._state.run_id, ids)):
            over[row["invocation_id"]].append(row)
        async with Writer(self._state.id, self._state.run_id) as writer:
            ways = [
                _Way(self._state, item, self._remote, self._caller, writer, over[item.id])
                for item in self._items
            ]
            await self._watch({asyncio.create_task(way.go()): way for way in ways})

    async def _watch(self, tasks: "dict[asyncio.Task[None], _Way]") -> None:
        """Wait for all ways, and end those of invocations that are cancelled."""
        pending = set(tasks)
        told: set[int] = set()

        def end_cancelled() -> None:
            # Each once, and none that has come to its end: that would interrupt the settlement.
            for task, way in tasks.items():
                is_cancelled = way.id in self._state.lease.cancelled
                if is_cancelled and way.id not in told and not way.is_over:
                    told.add(way.id)
                    task.cancel()

        def tell() -> None:
            loop.call_soon_threadsafe(end_cancelled)

        loop = asyncio.get_running_loop()
        try:
            with self._state.lease.telling(tell):
                loop.call_soon(end_cancelled)  # once all have begun
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
                    for task in done:
                        task.result()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


class _Way:
    """One invocation: its calls, and what they come to; `is_over` once that is known."""

    def __init__(
        self,
        state: BatchState,
        item: Item,
        remote: Target,
        caller: Caller,
        writer: Writer,
        over: Sequence[Row],
    ) -> None:
        self.id = item.id
        self.is_over = False
        self._state = state
        self._item = item
        self._trace = item.trace
        self._remote = remote
        self._caller = caller
        self._writer = writer
        self._over = over
        self._events = [event_json(event) for event in item.events]
        self._memos = Memos()
        for name, memo in item.outputs.items():
            self._memos.add(step_id(name), memo)
        self._journey = Journey(self._memos)
        self._attempt = max(0, item.attempt - 1)
        self._dispatch = item.dispatch
        self._answered: int | None = None  # the dispatch of a call, until it is ended
        self._checkpointed: set[str] = set()  # steps that were kept before a call was answered
        self._kinds: dict[str, tuple[str, str]] = {}  # of waits by step id: name and kind
        self._calls: set[asyncio.Task[None]] = set()
        self._step_error: dict[str, Any] = {}
        self._failed_beside = False  # whether it was in a call of its own that a step failed
        created_at = item.created_at or datetime.now(UTC)
        self._run_id = run_id(item.id, created_at)

    async def go(self) -> None:
        """Go on until the invocation has ended, waits, or has to be tried again later."""
        working_on.set(
            lambda: {
                "function": self._state.function,
                "run": self._state.run_id,
                **log_fields(self._item),
            }
        )
        try:
            over = [(row["step"], self._over_wait(row)) for row in self._over]
            await self._keep(over, of_wait=True)
            await self._travel()
            outcome = self._outcome()
            self.is_over = True
        except asyncio.CancelledError:
            if self._item.id not in self._state.lease.cancelled:
                raise
            outcome = self._failed(Failure("", _OP, Cancelled("cancelled")))
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
        await self._writer.settle(outcome)
        self._state.settled[self._item.id] = outcome
        if self._trace is not None:
            self._trace.record_outcome(outcome)

    async def _travel(self) -> None:
        while True:
            next = self._journey.next()
            if next is Next.CALL:
                await self._call_function()
            elif next is Next.AWAIT:
                done, self._calls = await asyncio.wait(
                    self._calls, return_when=asyncio.FIRST_COMPLETED
                )
                for call in done:
                    call.result()
            else:
                return

    async def _call_function(self) -> None:
        if self._answered is not None:
            await self._end_dispatch()
        self._journey.begin_call()
        started = time.time()
        dispatch = None if self._journey.in_parallel else self._dispatch
        answer = await self._ask(GO_ON, self._attempt, dispatch)
        todo = self._journey.take(await self._meaning(answer, dispatch))
        if todo.keeps or todo.plans or todo.requests or todo.waits:
            self._attempt = 0
        await self._carry_out(todo, started)
        for step in todo.plans:
            self._calls.add(asyncio.create_task(self._call_step(step)))
        for request in todo.requests:
            self._calls.add(asyncio.create_task(self._make_request(request)))

    async def _meaning(self, answer: Answer, dispatch: int | None) -> Meaning:
        """Return what an answer means, after what was kept while the function was called."""
        asked = Asked(None, self._attempt, self._remote.retry.attempts)
        meaning = interpret(answer, asked)
        if dispatch is None:
            return meaning
        if any(isinstance(effect, Succeeded) for effect in meaning.effects):
            if self._trace is not None and self._trace.run.sampled:
                self._answered = dispatch
                self._record_checkpointed(await self._writer.keep((), self._ending()))
            return meaning
        self._answered = dispatch
        if meaning.effects and all(isinstance(effect, Keep) for effect in meaning.effects):
            return meaning  # the dispatch ends as the results are saved
        if await self._end_dispatch():
            self._attempt = 0
            meaning = interpret(answer, replace(asked, attempt=0))
        return without_stale(meaning)

    async def _end_dispatch(self) -> bool:
        """End the dispatch of a call that was answered; return whether steps were kept in it."""
        return self._take_checkpointed(await self._writer.keep((), self._ending()))

    def _ending(self) -> Mapping[int, int]:
        """Return the dispatch that ends with the next write, if one does."""
        answered, self._answered = self._answered, None
        if answered is None:
            return {}
        self._dispatch = answered + 1
        return {self._item.id: answered}

    def _take_checkpointed(self, written: Written) -> bool:
        rows = self._record_checkpointed(written)
        for row in rows:
            self._item.outputs[row["step"]] = row["output"]
            self._journey.checkpointed(step_id(row["step"]), row["output"])
        return bool(rows)

    def _record_checkpointed(self, written: Written) -> Sequence[Row]:
        """Record the spans of the steps that were kept in the dispatch that has ended."""
        rows = written.checkpointed.get(self._item.id, ())
        for row in rows:
            name, error = row["step"], _error_in(row["output"])
            call_traces.record_step(
                self._trace, name, row["started"], row["tries"], error, end=row["finished"]
            )
            self._checkpointed.add(name)
        return rows

    async def _call_step(self, step: RemoteStep) -> None:
        started, asked = time.time(), self._asked_for(step)
        answer = await self._ask(step.id, asked.attempt)
        await self._finish_try(step, interpret(answer, asked), started)

    async def _make_request(self, request: MakeRequest) -> None:
        started, asked = time.time(), self._asked_for(request.step)
        meaning = Meaning((await make_request(self._caller, request, asked),))
        await self._finish_try(request.step, meaning, started)

    def _asked_for(self, step: RemoteStep) -> Asked:
        tries = self._item.tries.get(step.name, 0)
        return Asked(step.id, tries, self._remote.retry.attempts)

    async def _finish_try(self, step: RemoteStep, meaning: Meaning, started: float) -> None:
        todo = self._journey.take_step(step, meaning)
        self._failed_beside = self._failed_beside or bool(todo.failures)
        await self._carry_out(todo, started)

    async def _ask(self, step: str, attempt: int, dispatch: int | None = None) -> Answer:
        remote = self._remote
        call = Call(
            run_id=self._run_id,
            events=self._events,
            memos=self._memos,
            attempt=attempt,
            max_attempts=remote.retry.attempts,
            version=self._journey.version,
            step=step,
            in_parallel=self._journey.in_parallel,
            request_id=new_ulid(),
            dispatch=self._named(dispatch),
        )
        body = call.body()
        headers = {**call.headers(), **signed_headers(remote.keys, body)}
        url = call_url(remote.url, remote.slug, step)
        return await call_traces.ask(self._caller, self._trace, url, body, headers)

    def _named(self, dispatch: int | None) -> Dispatch | None:
        if dispatch is None:
            return None
        return Dispatch(function_uuid(self._remote.slug), self._state.id, dispatch)

    async def _carry_out(self, todo: Todo, started: float) -> None:
        """Keep results and errors, and register waits; those that are over are results at once."""
        await self._keep_failures(todo.failures, started)
        await self._keep([(keep.step.name, keep.memo) for keep in todo.keeps], started=started)
        if todo.waits:
            await self._wait(todo.waits)

    async def _keep(
        self,
        memos: Sequence[tuple[str, Any]],
        *,
        started: float | None = None,
        of_wait: bool = False,
    ) -> None:
        """Save memos by step names; one that cannot be stored becomes an error of its step."""
        at = time.time() if started is None else started
        texts = {name: _encoded(memo) for name, memo in memos}
        refused = await self._save(texts, at)
        if refused:
            errors = {
                name: _encoded({"error": error_of("NotStorable", reason)})
                for (_, name), reason in refused.items()
            }
            await self._save(errors, at)
            texts.update(errors)
        for name, text in texts.items():
            memo = json.loads(text)
            self._item.outputs[name] = memo
            if not of_wait and name not in self._checkpointed:
                tries = self._item.tries.get(name, 0) + 1
                call_traces.record_step(self._trace, name, at, tries, _error_in(memo))
            self._journey.done(step_id(name), memo, of_wait=of_wait)

    async def _save(
        self, texts: Mapping[str, str], started: float
    ) -> Mapping[tuple[int, str], str]:
        if not texts:
            return {}
        rows = [
            pair_row((self._item.id, name), self._item.attempt, text, None, started)
            for name, text in texts.items()
        ]
        written = await self._writer.keep(rows, self._ending())
        self._take_checkpointed(written)
        return {pair: why for pair, why in written.refused.items() if pair[0] == self._item.id}

    async def _keep_failures(self, failures: Sequence[StepFailed], started: float) -> None:
        if not failures:
            return
        rows = []
        for failed in failures:
            name = failed.step.name
            self._item.tries[name] = self._item.tries.get(name, 0) + 1
            error = json.dumps(_as_stored(failed.error, name))
            rows.append(pair_row((self._item.id, name), self._item.attempt, None, error, started))
            self._step_error = _as_stored(failed.error, name)
            tries = self._item.tries[name]
            call_traces.record_step(self._trace, name, started, tries, failed.error)
        await self._writer.keep(rows)

    async def _wait(self, wanted: Sequence[Wait]) -> None:
        requests: list[Mapping[str, Any]] = []
        events: dict[tuple[int, str], str] = {}
        impossible: list[tuple[str, Any]] = []
        for wait in wanted:
            pair = (self._item.id, wait.step.name)
            try:
                request, event = await self._request(wait)
            except DatabaseUnavailable:
                raise
            except RunyardError as error:
                impossible.append((wait.step.name, {"error": error_of("Error", str(error))}))
                continue
            requests.append({**request, "invocation": pair[0], "step": pair[1]})
            self._kinds[wait.step.id] = (wait.step.name, request["kind"])
            if event is not None:
                events[pair] = event
        await self._keep(impossible, of_wait=True)
        if not requests:
            return
        written = await self._writer.wait(requests, events)
        over: list[tuple[str, Any]] = []
        for registered in requests:
            name = registered["step"]
            row = written.waits.get((self._item.id, name))
            if row is None:
                reason = written.refused.get((self._item.id, name), "it has left its batch")
                over.append((name, {"error": error_of("NotStorable", reason)}))
            elif row["done"]:
                over.append((name, self._over_wait({**row, "kind": registered["kind"]})))
        await self._keep(over, of_wait=True)

    def _over_wait(self, row: Mapping[str, Any]) -> Any:
        """Return the memo of a wait that is over; a conflict of signals fails the run as well."""
        memo = _memo_of(row)
        if row["kind"] == "signal" and row["result"] and is_taken(row["result"]):
            self._journey.fail(memo["error"])
        return memo

    async def _request(self, wait: Wait) -> tuple[dict[str, Any], str | None]:
        """Return a wait as the event table takes it, and the event that goes with it."""
        match wait:
            case Sleep():
                return _time_of(wait, "sleep"), None
            case WaitForEvent():
                own = self._item.event
                request = waits.event(wait.event, own, None, None, 1.0, condition=wait.condition)
                request.pop("seconds")
                return {**request, **_time_of(wait.timeout, "event")}, None
            case WaitForSignal(_, signal, replaces, timeout):
                request = {"signal": signal, "replaces": replaces}
                return {**request, **_time_of(timeout, "signal")}, None
            case Invoke():
                return await self._invoke(wait)

    async def _invoke(self, wait: Invoke) -> tuple[dict[str, Any], str]:
        started = time.time()
        with StepSpan(self._item) as span:
            invocation = await in_thread(lambda: self._invocation(wait))
        call_traces.record_step(self._trace, wait.step.name, started, 1, None, span)
        return invocation

    def _invocation(self, wait: Invoke) -> tuple[dict[str, Any], str]:
        called = catalog.remote_function_of(wait.function)
        given = wait.payload.get("data")
        data = dict(given) if isinstance(given, dict) else {}
        name = catalog.name_for(wait.function, self._remote.app)
        if called is not None:
            data["_inngest"] = {
                "fn_id": called.slug,
                "correlation_id": f"{self._run_id}.{wait.step.id}",
                "name": wait.step.name,
                "expire": _expires_at(wait.timeout),
                "source_app_id": self._remote.app,
                "source_fn_id": self._remote.slug,
            }
        request, event = waits.invocation_of(name, data, self._item.id)
        return {**request, **_time_of(wait.timeout, "invoke")}, as_json([event])[1:-1]

    def _outcome(self) -> Outcome:
        journey = self._journey
        match journey.ending:
            case Succeeded(output):
                return self._succeeded(output)
            case Failed(error):
                return self._failed_with(error)
            case None:
                pass
        if journey.next() is Next.PARK:
            names = tuple(self._kinds[step][0] for step in journey.waiting)
            kinds = {self._kinds[step][1] for step in journey.waiting}
            status = "sleeping" if kinds == {"sleep"} else "waiting"
            self._state.suspended[self._item.id] = {
                self._kinds[step][0]: self._kinds[step][1] for step in journey.waiting
            }
            return Outcome(self._item.id, status, attempt=0, suspended=names)
        return self._retried()

    def _succeeded(self, output: Any) -> Outcome:
        try:
            _, text = encode(output, "what the function returned")
        except NonRetriable as error:
            return self._failed_with(error_of("NotStorable", str(error)))
        return Outcome(self._item.id, "succeeded", output=text)

    def _retried(self) -> Outcome:
        """Queue the invocation for another attempt, of the call or of the step that failed."""
        journey = self._journey
        if journey.retry is not None:
            tries, after = self._attempt + 1, journey.retry.after
            shown = _as_stored(journey.retry.error, None)
        else:
            shown, after = self._step_error, journey.step_retry
            tries = self._item.tries[shown["step"]] if self._failed_beside else self._attempt + 1
        delay = after if after is not None else self._remote.retry.delay(tries, _dice)
        step = shown["step"] or ""
        failure = Failure.from_json(step, {**shown, "retry_in_seconds": round(delay, 3)}, tries)
        outcome = self._failed(failure)
        # A step in a call of its own has a counter of its own.
        return replace(outcome, attempt=0) if self._failed_beside else outcome

    def _failed_with(self, error: Mapping[str, Any]) -> Outcome:
        shown = _as_stored(error, None)
        return self._failed(Failure.from_json("", shown, self._attempt + 1))

    def _failed(self, failure: Failure) -> Outcome:
        self._state.failures[self._item.id] = failure
        return failure.outcome(self._item.id)


def _encoded(memo: Any) -> str:
    try:
        return encode(memo)[1]
    except NonRetriable as error:
        return encode({"error": error_of("NotStorable", str(error))})[1]


def _error_in(memo: Any) -> Mapping[str, Any] | None:
    """Return the error that a memo holds in place of a result."""
    error = memo.get("error") if isinstance(memo, dict) and "data" not in memo else None
    return error if isinstance(error, dict) else None


def _expires_at(timeout: Sleep) -> int:
    """Return when a timeout is over, in milliseconds of the Unix time."""
    at = clock.now().timestamp() + (timeout.seconds or 0.0)
    return int((at if timeout.until is None else timeout.until) * 1_000)


def _time_of(time: Sleep, kind: str) -> dict[str, Any]:
    if time.until is not None:
        return {"kind": kind, "until": time.until}
    return {"kind": kind, "seconds": time.seconds or 0.0}


def _memo_of(row: Mapping[str, Any]) -> Any:
    """Return what a wait that is over has come to, as the protocol has it."""
    if row["kind"] == "sleep":
        return None
    if row["kind"] == "event":
        return None if row["expired"] else _event_memo(row["result"])
    if row["kind"] == "signal":
        return None if row["expired"] else _signal_memo(row["result"])
    if row["expired"]:
        return {"error": error_of("Error", "the invoked function has not ended in time")}
    child = row["result"]["data"]
    if child["status"] == "succeeded":
        return {"data": child["output"]}
    error = child["error"] or {}
    message = error.get("message") or f"the invoked function was {child['status']}"
    return {"error": error_of(error.get("type") or "Error", message)}


def _signal_memo(result: Mapping[str, Any]) -> Mapping[str, Any]:
    if is_taken(result):
        return {"error": error_of("SignalConflict", "another run waits for this signal already")}
    return {"data": result}


def _event_memo(document: Mapping[str, Any]) -> Mapping[str, Any]:
    memo = {**document, "user": document.get("user") or {}}
    if memo.get("v") is None:
        memo.pop("v", None)
    return memo


def _as_stored(error: Mapping[str, Any], step: str | None) -> dict[str, Any]:
    """Return an error of the protocol as the event table has errors."""
    return {
        "step": step,
        "op": _OP,
        "type": error["name"],
        "message": error["message"],
        "traceback": error.get("stack", ""),
    }
