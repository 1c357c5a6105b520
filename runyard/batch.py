"""The batch: what an op receives and returns.

A batch holds the invocations that one run works on. A step runs once for each (`map`) or once for all (`map_all`);
every result is kept in the event table before the step is over, so that a retry or another worker goes on behind it.
An invocation whose step fails leaves the batch; its neighbours go on.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, cast

import pydantic_core
from dagster import OpExecutionContext

from runyard import dispatch
from runyard.errors import LeaseLost, NonRetriable
from runyard.events import Event, EventData, catalog
from runyard.lease import Lease
from runyard.redaction import redact
from runyard.store.queries import Row

MAX_STEP_BYTES = 4 * 1024 * 1024
KEEP_SECONDS = 0.5
DEFAULT_WINDOW = 100
_TRACEBACK_LINES = 40

Result = TypeVar("Result")


@dataclass
class Failure:
    """Why an invocation left its batch: the step, the op it ran in, and the error."""

    step: str
    op: str
    error: Exception

    def to_json(self, retry_at: float | None = None) -> str:
        """The error as it is kept and shown: no secrets, a bounded traceback."""
        trace = "".join(traceback.format_exception(self.error)).splitlines()[-_TRACEBACK_LINES:]
        shown: dict[str, Any] = {
            "step": self.step,
            "type": type(self.error).__name__,
            "message": redact(str(self.error)),
            "traceback": redact("\n".join(trace)),
        }
        if retry_at is not None:
            shown["retry_in_seconds"] = round(retry_at, 3)
        return json.dumps(shown).replace("\\u0000", "\\ufffd")


@dataclass
class Item:
    """One invocation as a step sees it.

    Attributes
    ----------
    id
        The invocation's id.
    event
        The event, with its id, name, data, user, version and time.
    data
        The event's data: an instance of its type in the catalog, or a plain mapping for a name without one.
    attempt
        The number of this attempt, from 1.
    """

    id: int
    event: Event
    attempt: int
    data: Any
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])

    def __getitem__(self, step: str) -> Any:
        """The kept result of an earlier step; raises KeyError with the names there are."""
        try:
            return self.outputs[step]
        except KeyError:
            raise KeyError(f"step {step!r} has no result yet; there are: {', '.join(self.outputs) or 'none'}") from None


class Batch:
    """The invocations of one run, and where they stand. Ops pass it on; they do not make one."""

    def __init__(self, batch_id: str, run_id: str, function: str, items: Sequence[Item], lease: Lease) -> None:
        self.id = batch_id
        self.run_id = run_id
        self.function = function
        self.items = list(items)
        self.failures: dict[int, Failure] = {}
        self.lease = lease

    def __len__(self) -> int:
        return sum(1 for _ in self.live())

    def __repr__(self) -> str:
        return f"Batch({self.id}, {self.function}, {len(self)} of {len(self.items)} going on)"

    def live(self) -> Iterator[Item]:
        """The invocations that have not failed."""
        return (item for item in self.items if item.id not in self.failures)

    def map(self, step: str, do: Callable[[Item], object], *, threads: int = 1, at_most_once_window: int = DEFAULT_WINDOW) -> "Batch":
        """Run a step once for each invocation that has no result of it yet; keep every result.

        Parameters
        ----------
        step
            The step's name, unique within the function: `prepare-email`.
        do
            Takes an `Item`, returns what is to be kept: anything that pydantic turns into JSON, 4 MiB at most. What it
            raises fails this invocation alone (see `NonRetriable`, `RetryAfter`).
        threads
            How many are done at a time. More than one where the step waits on a network.
        at_most_once_window
            Results are kept after this many or half a second, whichever comes first. After a crash of the worker no
            more than this many are done again; 1 keeps each result at once.

        Returns
        -------
        This batch, without those that failed.

        Raises
        ------
        LeaseLost
            Another run has the batch; nothing more is done.
        """
        keeper = _Keeper(self, step, at_most_once_window)
        todo = [item for item in self.live() if step not in item.outputs]
        with keeper:
            if threads == 1 or len(todo) < 2:
                for item in todo:
                    keeper.take(_attempt(do, item))
            else:
                self._map_in_threads(do, todo, threads, keeper)
        return self

    def map_all(self, step: str, do: Callable[[Sequence[Item]], Sequence[object]], *, size: int | None = None) -> "Batch":
        """Run a step on all invocations at once, for interfaces that take many.

        As `map`, but `do` takes a list of items and returns a list as long, in the same order; an element that is an
        exception fails that invocation alone, and an exception raised fails all of the call. `size` limits how many a call takes;
        the results of a call are kept before the next one begins.
        """
        todo = [item for item in self.live() if step not in item.outputs]
        with _Keeper(self, step, window=1) as keeper:
            for start in range(0, len(todo), size or max(1, len(todo))):
                keeper.take_all(_attempt_all(do, todo[start : start + (size or len(todo))]))
        return self

    def _map_in_threads(self, do: Callable[[Item], object], todo: Sequence[Item], threads: int, keeper: "_Keeper") -> None:
        # A window of futures, not all at once: what is under way when the lease is lost is then bounded.
        waiting = iter(todo)
        under_way: set[Future[_Result]] = set()
        with ThreadPoolExecutor(min(threads, len(todo)), thread_name_prefix="step") as executor:
            while True:
                for item in islice(waiting, 2 * threads - len(under_way)):
                    under_way.add(executor.submit(copy_context().run, _attempt, do, item))
                if not under_way:
                    return
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                keeper.take_all([future.result() for future in done])

    def fail(self, item: Item, step: str, op: str, error: Exception) -> None:
        """Take an invocation out of the batch."""
        self.failures[item.id] = Failure(step, op, error)


@dataclass
class _Result:
    """What a step gave for one item: an output (also as JSON), or an error; with the time it took."""

    item: Item
    started: float
    finished: float
    output: object = None
    output_json: str | None = None
    error: Exception | None = None


def _attempt(do: Callable[[Item], object], item: Item) -> _Result:
    started = time.time()
    try:
        output, encoded = _encode(do(item))
    except Exception as error:
        return _Result(item, started, time.time(), error=error)
    return _Result(item, started, time.time(), output, encoded)


def _attempt_all(do: Callable[[Sequence[Item]], Sequence[object]], items: Sequence[Item]) -> list[_Result]:
    started = time.time()
    try:
        outputs = list(do(items))
        if len(outputs) != len(items):
            raise NonRetriable(f"the step was given {len(items)} items and returned {len(outputs)} results: return one for each, in order")
    except Exception as error:
        return [_Result(item, started, time.time(), error=error) for item in items]
    finished = time.time()
    results: list[_Result] = []
    for item, output in zip(items, outputs, strict=True):
        try:
            if isinstance(output, Exception):
                raise output
            results.append(_Result(item, started, finished, *_encode(output)))
        except Exception as error:
            results.append(_Result(item, started, finished, error=error))
    return results


def _encode(output: object) -> tuple[object, str]:
    """The output as later steps will see it (after a journey through JSON), and its JSON."""
    raw = pydantic_core.to_json(output, inf_nan_mode="null")
    if len(raw) > MAX_STEP_BYTES:
        raise NonRetriable(f"the step's result has {len(raw)} bytes; a step may keep {MAX_STEP_BYTES} (4 MiB). Store it elsewhere and return where it is")
    if b"\\u0000" in raw:
        raise NonRetriable("the step's result holds the character NUL, which PostgreSQL cannot keep in JSON; remove it")
    return pydantic_core.from_json(raw), raw.decode()


class _Keeper:
    """Collects the results of one step and keeps them in the event table, a window at a time."""

    def __init__(self, batch: Batch, step: str, window: int) -> None:
        self._batch = batch
        self._step = step
        self._op = OpExecutionContext.get().op.name
        self._window = max(1, window)
        self._pending: list[_Result] = []
        self._since = time.monotonic()

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # On an interrupt too: what is done is done, and must not be done again.
        if kind is None or not issubclass(kind, LeaseLost):
            self._flush()

    def take(self, result: _Result) -> None:
        self.take_all([result])

    def take_all(self, results: Sequence[_Result]) -> None:
        if self._batch.lease.lost.is_set():
            raise LeaseLost(f"batch {self._batch.id} is no longer this run's: another run goes on with it")
        if not self._pending:
            self._since = time.monotonic()
        self._pending.extend(results)
        if len(self._pending) >= self._window or time.monotonic() - self._since >= KEEP_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        results, self._pending = self._pending, []
        rows: list[tuple[int, int, str | None, str | None, float, float]] = []
        for result in results:
            error = None
            if result.error is not None:
                self._batch.fail(result.item, self._step, self._op, result.error)
                error = self._batch.failures[result.item.id].to_json()
            else:
                result.item.outputs[self._step] = result.output
            rows.append((result.item.id, result.item.attempt, result.output_json, error, result.started, result.finished))
        dispatch.keep(self._batch.id, self._batch.run_id, self._step, rows)


def items_from_rows(rows: Sequence[Row], steps: Sequence[Row]) -> tuple[list[Item], dict[int, Failure]]:
    """Make the items of a batch from its invocations and kept steps; those whose data does not fit its type have failed.

    An error kept in this attempt means that the invocation has left the batch already.
    """
    items: list[Item] = []
    failures: dict[int, Failure] = {}
    for row in rows:
        event = Event(row["name"], row["data"], id=row["event_id"], ts=row["ts"], user=row["user_data"], v=row["v"])
        data: EventData | Mapping[str, Any] = event.data
        try:
            data = catalog.parse(event.name, event.data) or event.data
        except Exception as error:
            failures[row["id"]] = Failure("receive", "receive", NonRetriable(f"the event's data does not fit its type: {error}"))
        items.append(Item(row["id"], event, row["attempt"], data))
    by_id = {item.id: item for item in items}
    for kept in steps:
        item = by_id[kept["invocation_id"]]
        if kept["error"] is None:
            item.outputs[kept["step"]] = kept["output"]
        elif kept["attempt"] == item.attempt:
            earlier = cast(dict[str, Any], kept["error"])
            failures[item.id] = Failure(kept["step"], "receive", RuntimeError(f"{earlier['type']}: {earlier['message']}"))
    return items, failures
