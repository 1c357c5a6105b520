"""Runs a step for invocations, and saves its results in the event table, a checkpoint at a time."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pydantic_core

from runyard.engine import checkpoints, log_capture
from runyard.engine.activity import board
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState, Item
from runyard.engine.progress import Reporter
from runyard.engine.step_logs import StepLogs
from runyard.errors import (
    DatabaseUnavailable,
    InvalidEvent,
    InvalidOption,
    LeaseLost,
    NonRetriable,
    StepTimeout,
    interrupts,
)
from runyard.events import Event, as_json, rows_of
from runyard.functions import registry
from runyard.functions.retry import Retry
from runyard.syntax.traceparent import TraceContext
from runyard.text.error_text import fit, message_of, type_of
from runyard.text.storable import is_storable
from runyard.tracing import recording

MAX_STEP_BYTES = 4 * 1024 * 1024
MAX_STEP_NAME = 512
# No result stays unsaved for longer than this.
SAVE_INTERVAL = 0.5
_MAX_REASON = 500
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Python does not read longer numbers back (`sys.int_info.default_max_str_digits`).
_LONG_NUMBER = re.compile(rb"(?<!\d)\d{4301}")
_log = logging.getLogger("runyard.engine.steps")


@dataclass
class Result:
    """What a step returned for one item.

    Attributes
    ----------
    item
        The item.
    started, finished
        When the step ran, in seconds since the epoch.
    output, output_json
        The output as later steps see it, and its JSON.
    error, error_json
        The error that the step raised, and its JSON.
    events
        Events to send together with the output, as JSON.
    span
        The span of the attempt, if traces are recorded.
    """

    item: Item
    started: float
    finished: float
    output: object = None
    output_json: str | None = None
    error: BaseException | None = None
    events: str | None = None
    error_json: str | None = None
    span: TraceContext | None = None


def attempt(do: Callable[[Item], object], item: Item, what: str = "the step's result") -> Result:
    """Run a step for one item. Whatever it raises is the item's error, except an interrupt.

    `what` names the return value in an error message.
    """
    started = time.time()
    try:
        output, encoded = encode(do(item), what)
    except interrupts():
        raise
    except BaseException as error:
        return Result(item, started, time.time(), error=error)
    return Result(item, started, time.time(), output, encoded)


def attempt_all(
    do: Callable[[Sequence[Item]], Sequence[object]], items: Sequence[Item]
) -> list[Result]:
    """Run a step for all items in one call."""
    started = time.time()
    try:
        outputs = list(do(items))
        if len(outputs) != len(items):
            raise NonRetriable(
                f"the step was given {len(items)} items and returned {len(outputs)} results; "
                "return one for each item, in the same order"
            )
    except interrupts():
        raise
    except BaseException as error:
        return [Result(item, started, time.time(), error=error) for item in items]
    finished = time.time()
    results: list[Result] = []
    for item, output in zip(items, outputs, strict=True):
        try:
            if isinstance(output, BaseException):
                raise output
            results.append(Result(item, started, finished, *encode(output)))
        except BaseException as error:
            results.append(Result(item, started, finished, error=error))
    return results


class StepSpan:
    """The span of an attempt of a step while it runs: `with` yields it; None if traces are off."""

    __slots__ = ("_token", "_trace")

    def __init__(self, item: Item) -> None:
        self._trace = item.trace
        self._token: object = None

    def __enter__(self) -> TraceContext | None:
        if self._trace is None:
            return None
        span = self._trace.new_span()
        self._token = recording.enter(span)
        return span

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            recording.leave(self._token)


def encode(output: object, what: str = "the step's result") -> tuple[object, str]:
    """Return an output as later steps see it (after a round trip through JSON), and its JSON.

    Raises `NonRetriable` for one that cannot be saved.
    """
    try:
        raw = pydantic_core.to_json(output, inf_nan_mode="null")
    except interrupts():
        raise
    except BaseException as error:
        raise NonRetriable(
            f"{what} cannot be saved: {fit(message_of(error), _MAX_REASON)}. "
            "Return what JSON can hold: text, numbers, lists, objects, models"
        ) from error
    if len(raw) > MAX_STEP_BYTES:
        raise NonRetriable(
            f"{what} has {len(raw)} bytes, and the limit is {MAX_STEP_BYTES} (4 MiB). "
            "Store it elsewhere and return its location"
        )
    if b"\\u0000" in raw and _NUL.search(raw):
        raise NonRetriable(
            f"{what} contains the character NUL, which PostgreSQL cannot store in JSON; remove it"
        )
    try:
        if _LONG_NUMBER.search(raw):
            json.loads(raw)
        return pydantic_core.from_json(raw), raw.decode()
    except ValueError as error:
        raise NonRetriable(
            f"{what} cannot be read back: {fit(str(error), _MAX_REASON)}. "
            "Return less deeply nested lists and shorter numbers, or text"
        ) from error


def check_name(step: str) -> str:
    """Return a step's name; raises `InvalidOption` for one that cannot be stored."""
    if not isinstance(step, str) or not 1 <= len(step) <= MAX_STEP_NAME or not is_storable(step):
        raise InvalidOption(
            f"{fit(repr(step), 100)} cannot name a step: give text of 1 to {MAX_STEP_NAME} "
            "characters without NUL, as in 'prepare-email'"
        )
    return step


class StepRecorder:
    """Collects the results of one step in an op, and saves them.

    Results are saved as soon as there are `checkpoint_every` of them, and by a thread of the
    recorder's own when the first is half a second old, whatever the step is busy with. Several
    threads may record results: `record` returns when fewer than `checkpoint_every` are unsaved, so
    that a crash repeats no more than that and what was in progress.

    Inside the recorder's context, the board of this process shows which items are in progress in
    the step, and the timeout of each.

    Parameters
    ----------
    state
        The batch.
    op
        The name of the op that runs the step.
    fail
        Takes an item that failed out of the batch.
    step
        The step's name.
    checkpoint_every
        How many results may be unsaved.
    retry
        The step's retry rules; those of the function when None.
    limit
        The timeout of an item, in seconds.
    expected
        How many results there will be.
    places
        How many items may be in progress at a time.
    single_call
        Whether all items are one call of the step.
    """

    def __init__(
        self,
        state: BatchState,
        op: str,
        fail: Callable[[Item, Failure], None],
        step: str,
        checkpoint_every: int,
        retry: Retry | None,
        *,
        limit: float,
        expected: int = 1,
        places: int = 1,
        single_call: bool = False,
    ) -> None:
        self._state = state
        self._fail_item = fail
        self.step = check_name(step)
        self._op = op
        self._checkpoint_every = max(1, checkpoint_every)
        function = registry.find(state.function)
        self._retry = retry or (function.retry if function is not None else Retry())
        self._limit = limit
        self._places = places
        self._single_call = single_call
        self._board = board()
        self._pending: list[Result] = []
        self._logs = StepLogs(state.function, state.id, state.run_id, step)
        self._reporter = Reporter(state.id, state.run_id, step)
        self._since = time.monotonic()
        self._lock = threading.Lock()
        # Held while results are written: whoever has waited for it sees which ones are left.
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._error: BaseException | None = None
        # When every result is saved at once, or there is only one, no result is left to a timer.
        self._timer = (
            threading.Thread(target=self._save_in_time, name="runyard-recorder", daemon=True)
            if min(self._checkpoint_every, expected) > 1
            else None
        )

    def __enter__(self) -> "StepRecorder":
        self._board.begin_step(
            self.step,
            self._op,
            self._limit,
            self._retry.rule_for(StepTimeout),
            single_call=self._single_call,
            places=self._places,
        )
        log_capture.start()
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._close(kind)
        finally:
            log_capture.stop()
            self._board.end_step()

    def _close(self, kind: type[BaseException] | None) -> None:
        self._closed.set()
        if self._timer is not None:
            self._timer.join()
        if self._error is not None:
            if kind is None:
                raise self._error
        elif kind is None or not issubclass(kind, LeaseLost):
            # Also after an interrupt: what has been done must not be repeated.
            self._flush()
            self._logs.save()
            self._reporter.save()

    def check(self) -> None:
        """Raise `LeaseLost` when another run has the batch, or the error of a failed save."""
        self._state.check_lease()
        if self._error is not None:
            raise self._error

    def attempt(
        self,
        do: Callable[[Item], object],
        item: Item,
        what: str = "the step's result",
        place: int = 0,
    ) -> Result:
        """Run the function `attempt` under the step's timeout."""
        self.begin(item, place)
        try:
            if item.trace is None:
                return attempt(do, item, what)
            with StepSpan(item) as span:
                result = attempt(do, item, what)
            result.span = span
            return result
        finally:
            self.end(place)

    def attempt_all(
        self,
        do: Callable[[Sequence[Item]], Sequence[object]],
        items: Sequence[Item],
    ) -> list[Result]:
        """Run the function `attempt_all` under the step's timeout."""
        self._logs.begin(*items)
        for item in items:
            item.reporter = self._reporter
        self._board.begin_all([item.id for item in items])
        try:
            if len(items) == 1:
                with StepSpan(items[0]) as span:
                    [result] = attempt_all(do, items)
                result.span = span
                return [result]
            results = attempt_all(do, items)
            for result in results:
                # The call belongs to the traces of all, and so to none.
                trace = result.item.trace
                result.span = trace.new_span() if trace is not None else None
            return results
        finally:
            self._board.end_all(len(items))
            self._logs.end()

    def enter(self, place: int) -> None:
        """Give this thread a place, at which it works on one item after the other."""
        self._board.enter(place)

    def begin(self, item: Item, place: int) -> None:
        """Start the timeout of an item, which is what this thread or task logs of from now on."""
        self._logs.begin(item)
        item.reporter = self._reporter
        self._board.begin(place, item.id)

    def begin_again(self, item: Item, place: int) -> None:
        """Start the timeout of an item anew; called by another thread or task than the item's."""
        self._board.begin(place, item.id)

    def end(self, place: int) -> None:
        """End the timeout of the item at this place."""
        self._board.end(place)
        self._logs.end()

    @property
    def batch_id(self) -> str:
        """The id of the step's batch."""
        return self._state.id

    @property
    def run_id(self) -> str:
        """The id of the run that has the batch."""
        return self._state.run_id

    def record(self, results: Sequence[Result]) -> None:
        """Add results; return when few enough are unsaved. Raises what `check` raises."""
        self.check()
        for result in results:
            if result.error is None:
                result.item.outputs[self.step] = result.output
            else:
                self._fail(result, result.error)
            self.record_span(result)
        with self._lock:
            if not self._pending:
                self._since = time.monotonic()
                self._board.unsaved = True
            self._pending.extend(results)
            full = len(self._pending) >= self._checkpoint_every
        if full:
            self._flush(self._checkpoint_every)

    def record_span(self, result: Result) -> None:
        """Record the span of an attempt, if traces are recorded."""
        trace = result.item.trace
        if trace is None or result.span is None or not result.span.sampled:
            return
        tries = result.item.tries.get(self.step, 0) + 1
        error = "" if result.error is None else type_of(result.error)
        trace.record_step(self.step, result.span, result.started, result.finished, tries, error)

    def record_events(self, item: Item, make: Callable[[Item], Event | Sequence[Event]]) -> None:
        """Add the events that a step sends for an item.

        They are sent when the result is saved, which is the list of their ids.
        """
        elements = ""

        def ids(item: Item) -> list[str]:
            nonlocal elements
            events = make(item)
            rows = rows_of([events] if isinstance(events, Event) else list(events))
            if any(row.get("id") for row in rows):
                raise InvalidEvent(
                    "events sent by a step are sent only once in any case; leave their id out", "id"
                )
            elements = as_json([{**row, "caused_by": item.id} for row in rows])[1:-1]
            return [str(row["ulid"]) for row in rows]

        result = self.attempt(ids, item)
        if result.error is None:
            result.events = elements or None
        self.record([result])

    def _flush(self, least: int = 1) -> None:
        """Save what is pending, unless that is fewer than `least` once this thread may write."""
        with self._writing:
            results = list(self._pending)
            if len(results) < least:
                return
            self._write(results)
            # Only now, so that results whose save failed or was interrupted are saved by the next
            # flush. Saving a result twice changes nothing.
            with self._lock:
                del self._pending[: len(results)]
                self._since = time.monotonic()
                self._board.unsaved = bool(self._pending)

    def _write(self, results: Sequence[Result]) -> None:
        invocations = [result.item.id for result in results]
        self._logs.save(invocations)
        self._reporter.save(invocations)
        refused = self._save(results)
        if not refused:
            return
        failed = [result for result in results if result.item.id in refused]
        for result in failed:
            result.item.outputs.pop(self.step, None)
            reason = refused[result.item.id]
            message = f"the database cannot store the step's result: {reason}"
            self._fail(result, NonRetriable(message))
        self._save(failed)

    def _save(self, results: Sequence[Result]) -> dict[int, str]:
        rows = [
            (
                result.item.id,
                result.item.attempt,
                result.output_json,
                result.error_json,
                result.started,
                result.finished,
            )
            for result in results
        ]
        events = {result.item.id: result.events for result in results if result.events is not None}
        return checkpoints.save_steps(
            self._state.id, self._state.run_id, self.step, rows, events=events
        )

    def _save_in_time(self) -> None:
        while not self._closed.wait(self._seconds_left()):
            if self._seconds_left() > 0:
                continue
            try:
                self._flush()
            except DatabaseUnavailable as error:
                _log.warning("results of step %s could not be saved yet: %s", self.step, error)
                with self._lock:
                    self._since = time.monotonic()
            except BaseException as error:
                self._error = error
                return

    def _seconds_left(self) -> float:
        """Return the seconds until the first unsaved result is half a second old.

        Half a second when there is none: a result that comes meanwhile is not older by then.
        """
        with self._lock:
            if not self._pending:
                return SAVE_INTERVAL
            return max(0.0, self._since + SAVE_INTERVAL - time.monotonic())

    def _fail(self, result: Result, error: BaseException) -> None:
        item = result.item
        tries = item.tries.get(self.step, 0) + 1
        failure = Failure.of(self.step, self._op, error, tries, self._retry)
        self._fail_item(item, failure)
        result.output_json, result.events, result.error_json = None, None, failure.to_json()
