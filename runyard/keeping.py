"""Does a step for invocations, and keeps what it gave in the event table, a window at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydantic_core
from dagster import OpExecutionContext

from runyard import dispatch, registry
from runyard.errors import InvalidEvent, LeaseLost, NonRetriable
from runyard.events import Event, as_json, rows_of
from runyard.outcomes import Failure
from runyard.retry import Retry

if TYPE_CHECKING:
    from runyard.batch import Batch, Item

MAX_STEP_BYTES = 4 * 1024 * 1024
KEEP_SECONDS = 0.5


@dataclass
class Result:
    """What a step gave for one item: an output (also as JSON), or an error; with the time it took."""

    item: "Item"
    started: float
    finished: float
    output: object = None
    output_json: str | None = None
    error: Exception | None = None


def attempt(do: "Callable[[Item], object]", item: "Item") -> Result:
    """Do a step for one item."""
    started = time.time()
    try:
        output, encoded = encode(do(item))
    except Exception as error:
        return Result(item, started, time.time(), error=error)
    return Result(item, started, time.time(), output, encoded)


def attempt_all(do: "Callable[[Sequence[Item]], Sequence[object]]", items: "Sequence[Item]") -> list[Result]:
    """Do a step for all items at once."""
    started = time.time()
    try:
        outputs = list(do(items))
        if len(outputs) != len(items):
            raise NonRetriable(f"the step was given {len(items)} items and returned {len(outputs)} results: return one for each, in order")
    except Exception as error:
        return [Result(item, started, time.time(), error=error) for item in items]
    finished = time.time()
    results: list[Result] = []
    for item, output in zip(items, outputs, strict=True):
        try:
            if isinstance(output, Exception):
                raise output
            results.append(Result(item, started, finished, *encode(output)))
        except Exception as error:
            results.append(Result(item, started, finished, error=error))
    return results


def encode(output: object) -> tuple[object, str]:
    """The output as later steps will see it (after a journey through JSON), and its JSON."""
    raw = pydantic_core.to_json(output, inf_nan_mode="null")
    if len(raw) > MAX_STEP_BYTES:
        raise NonRetriable(f"the step's result has {len(raw)} bytes; a step may keep {MAX_STEP_BYTES} (4 MiB). Store it elsewhere and return where it is")
    if b"\\u0000" in raw:
        raise NonRetriable("the step's result holds the character NUL, which PostgreSQL cannot keep in JSON; remove it")
    return pydantic_core.from_json(raw), raw.decode()


class Keeper:
    """Collects the results of one step; what failed leaves the batch, by the retry rules of the step or of the function."""

    def __init__(self, batch: "Batch", step: str, window: int, retry: Retry | None) -> None:
        self._batch = batch
        self._step = step
        self._op = OpExecutionContext.get().op.name
        self._window = max(1, window)
        self._retry = retry
        self._pending: list[Result] = []
        self._events: list[dict[str, object]] = []
        self._since = time.monotonic()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # On an interrupt too: what is done is done, and must not be done again.
        if kind is None or not issubclass(kind, LeaseLost):
            self._flush()

    def take(self, results: Sequence[Result]) -> None:
        """Add results; they are kept when the window is full or half a second old."""
        self._batch.shared.check_lease()
        if not self._pending:
            self._since = time.monotonic()
        self._pending.extend(results)
        if len(self._pending) >= self._window or time.monotonic() - self._since >= KEEP_SECONDS:
            self._flush()

    def take_events(self, item: "Item", make: "Callable[[Item], Event | Sequence[Event]]") -> None:
        """Add the events that a step sends for an item; they go out with its result, which is their ids."""

        def rows_made(item: "Item") -> list[str]:
            made = make(item)
            rows = rows_of([made] if isinstance(made, Event) else list(made))
            if any(row.get("id") for row in rows):
                raise InvalidEvent("events that a step sends are sent once as they are: leave their id out", "id")
            self._events.extend({**row, "caused_by": item.id} for row in rows)
            return [str(row["ulid"]) for row in rows]

        self.take([attempt(rows_made, item)])

    def _flush(self) -> None:
        if not self._pending:
            return
        results, self._pending = self._pending, []
        events, self._events = self._events, []
        rows: list[dispatch.Kept] = []
        for result in results:
            error = None
            if result.error is not None:
                error = self._fail(result.item, result.error).to_json()
            else:
                result.item.outputs[self._step] = result.output
            rows.append((result.item.id, result.item.attempt, result.output_json, error, result.started, result.finished))
        shared = self._batch.shared
        dispatch.keep(shared.id, shared.run_id, self._step, rows, events=as_json(events) if events else None)

    def _fail(self, item: "Item", error: Exception) -> Failure:
        function = registry.find(self._batch.function)
        retry = self._retry or (function.retry if function is not None else Retry())
        failure = Failure.of(self._step, self._op, error, item.tries.get(self._step, 0) + 1, retry)
        self._batch.fail(item, failure)
        return failure
