"""Does a step for invocations, and keeps what it gave in the event table, a window at a time."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pydantic_core

from runyard.engine import dispatch
from runyard.engine.activity import board
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState, Item
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
from runyard.text.error_text import fit, message_of
from runyard.text.storable import is_storable

MAX_STEP_BYTES = 4 * 1024 * 1024
MAX_STEP_NAME = 512
SAVE_INTERVAL = 0.5
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Python reads no longer numbers back (`sys.int_info.default_max_str_digits`).
_LONG_NUMBER = re.compile(rb"(?<!\d)\d{4301}")
_log = logging.getLogger("runyard.engine.steps")


@dataclass
class Result:
    """What a step gave for one item: an output and the events to be sent with it, or an error (all as JSON too); with the time it took."""

    item: Item
    started: float
    finished: float
    output: object = None
    output_json: str | None = None
    error: BaseException | None = None
    events: str | None = None
    error_json: str | None = None


def attempt(do: Callable[[Item], object], item: Item, what: str = "the step's result") -> Result:
    """Do a step for one item; all that it raises is the item's own, but for an interrupt of the run. Errors call what it gives `what`."""
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
    """Do a step for all items at once."""
    started = time.time()
    try:
        outputs = list(do(items))
        if len(outputs) != len(items):
            raise NonRetriable(
                f"the step was given {len(items)} items and returned {len(outputs)} results: return one for each, in order"
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


def encode(output: object, what: str = "the step's result") -> tuple[object, str]:
    """The output as later steps will see it (after a journey through JSON), and its JSON; raises `NonRetriable` for one that cannot be kept."""
    try:
        raw = pydantic_core.to_json(output, inf_nan_mode="null")
    except interrupts():
        raise
    except BaseException as error:
        raise NonRetriable(
            f"{what} cannot be kept: {fit(message_of(error), 500)}. Return what JSON can hold: text, numbers, lists, objects, models"
        ) from error
    if len(raw) > MAX_STEP_BYTES:
        raise NonRetriable(
            f"{what} has {len(raw)} bytes; a step may keep {MAX_STEP_BYTES} (4 MiB). Store it elsewhere and return where it is"
        )
    if b"\\u0000" in raw and _NUL.search(raw):
        raise NonRetriable(
            f"{what} holds the character NUL, which PostgreSQL cannot keep in JSON; remove it"
        )
    try:
        if _LONG_NUMBER.search(raw):
            json.loads(raw)
        return pydantic_core.from_json(raw), raw.decode()
    except ValueError as error:
        raise NonRetriable(
            f"{what} cannot be read back: {fit(str(error), 500)}. Return less deep lists and shorter numbers, or text"
        ) from error


def check_name(step: str) -> str:
    """The name of a step; raises `InvalidOption` for one under which nothing can be kept."""
    if not isinstance(step, str) or not 1 <= len(step) <= MAX_STEP_NAME or not is_storable(step):
        raise InvalidOption(
            f"{fit(repr(step), 100)} cannot name a step: give text of 1 to {MAX_STEP_NAME} characters, as in 'prepare-email', without NUL"
        )
    return step


class StepRecorder:
    """Collects the results of one step in an op; what failed leaves the batch (`fail`), by the retry rules of the step or of the function.

    Results are kept when there are `window` of them, and by a thread of the keeper's own when the first is half a second old, whatever the step
    is doing meanwhile. Several threads may give it results: `record` returns when fewer than a window of them are yet to be kept, so that a crash
    repeats no more than that, and what was being done.

    While it is entered, the board of this process says which items are under way in the step, and for
    how long each may be (`limit`, in seconds).
    """

    def __init__(
        self,
        state: BatchState,
        op: str,
        fail: Callable[[Item, Failure], None],
        step: str,
        window: int,
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
        self._window = max(1, window)
        function = registry.find(state.function)
        self._retry = retry or (function.retry if function is not None else Retry())
        self._limit = limit
        self._places = places
        self._single_call = single_call
        self._board = board()
        self._pending: list[Result] = []
        self._since = time.monotonic()
        self._lock = threading.Lock()
        # Held while results are written: who has waited for it sees what is left.
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._error: BaseException | None = None
        # With a window of one nothing is left for it, nor behind the only result.
        self._timer = (
            threading.Thread(target=self._save_in_time, name="runyard-keeper", daemon=True)
            if min(self._window, expected) > 1
            else None
        )

    def __enter__(self) -> "StepRecorder":
        rule = self._retry.rule_for(StepTimeout)
        self._board.begin_step(
            self.step,
            self._op,
            self._limit,
            rule,
            single_call=self._single_call,
            places=self._places,
        )
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._close(kind)
        finally:
            self._board.end_step()

    def _close(self, kind: type[BaseException] | None) -> None:
        self._closed.set()
        if self._timer is not None:
            self._timer.join()
        if self._error is not None:
            if kind is None:
                raise self._error
        elif kind is None or not issubclass(kind, LeaseLost):
            # On an interrupt too: what is done is done, and must not be done again.
            self._flush()

    def check(self) -> None:
        """Raise `LeaseLost` when another run has the batch, or what went wrong when results were kept."""
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
        """As the function `attempt`, within the time limit."""
        self._board.begin(place, item.id)
        try:
            return attempt(do, item, what)
        finally:
            self._board.end(place)

    def attempt_all(
        self,
        do: Callable[[Sequence[Item]], Sequence[object]],
        items: Sequence[Item],
    ) -> list[Result]:
        """As the function `attempt_all`, within the time limit."""
        self._board.begin_all([item.id for item in items])
        try:
            return attempt_all(do, items)
        finally:
            self._board.end_all(len(items))

    @property
    def batch_id(self) -> str:
        """The batch that the step is of."""
        return self._state.id

    @property
    def run_id(self) -> str:
        """The run that has the batch."""
        return self._state.run_id

    def record(self, results: Sequence[Result]) -> None:
        """Add results; wait until fewer than a window are yet to be kept. Raises as `check`."""
        self.check()
        for result in results:
            if result.error is None:
                result.item.outputs[self.step] = result.output
            else:
                self._fail(result, result.error)
        with self._lock:
            if not self._pending:
                self._since = time.monotonic()
                self._board.unsaved = True
            self._pending.extend(results)
            full = len(self._pending) >= self._window
        if full:
            self._flush(self._window)

    def record_events(self, item: Item, make: Callable[[Item], Event | Sequence[Event]]) -> None:
        """Add the events that a step sends for an item; they go out with its result, which is their ids."""
        elements = ""

        def rows_made(item: Item) -> list[str]:
            nonlocal elements
            made = make(item)
            rows = rows_of([made] if isinstance(made, Event) else list(made))
            if any(row.get("id") for row in rows):
                raise InvalidEvent(
                    "events that a step sends are sent once as they are: leave their id out", "id"
                )
            elements = as_json([{**row, "caused_by": item.id} for row in rows])[1:-1]
            return [str(row["ulid"]) for row in rows]

        result = self.attempt(rows_made, item)
        if result.error is None:
            result.events = elements or None
        self.record([result])

    def _flush(self, least: int = 1) -> None:
        """Keep what is pending, unless fewer than `least` are by the time that it is this one's turn."""
        with self._writing:
            results = list(self._pending)
            if len(results) < least:
                return
            self._write(results)
            # Only now, so that what could not be kept, or was interrupted, is kept by the next one. Keeping twice changes nothing.
            with self._lock:
                del self._pending[: len(results)]
                self._since = time.monotonic()
                self._board.unsaved = bool(self._pending)

    def _write(self, results: Sequence[Result]) -> None:
        refused = self._save(results)
        if not refused:
            return
        failed = [result for result in results if result.item.id in refused]
        for result in failed:
            result.item.outputs.pop(self.step, None)
            self._fail(
                result,
                NonRetriable(
                    f"the database cannot keep the step's result: {refused[result.item.id]}"
                ),
            )
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
        return dispatch.save_steps(
            self._state.id, self._state.run_id, self.step, rows, events=events
        )

    def _save_in_time(self) -> None:
        while not self._closed.wait(self._seconds_left()):
            if self._seconds_left() > 0:
                continue
            try:
                self._flush()
            except DatabaseUnavailable as error:
                _log.warning("results of step %s are not kept yet: %s", self.step, error)
                with self._lock:
                    self._since = time.monotonic()
            except BaseException as error:
                self._error = error
                return

    def _seconds_left(self) -> float:
        """Seconds until the first result is half a second old. Without one, as long: one that comes meanwhile is then not older either."""
        with self._lock:
            return (
                max(0.0, self._since + SAVE_INTERVAL - time.monotonic())
                if self._pending
                else SAVE_INTERVAL
            )

    def _fail(self, result: Result, error: BaseException) -> None:
        item = result.item
        tries = item.tries.get(self.step, 0) + 1
        failure = Failure.of(self.step, self._op, error, tries, self._retry)
        self._fail_item(item, failure)
        result.output_json, result.events, result.error_json = None, None, failure.to_json()
