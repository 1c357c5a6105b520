"""The batch: what an op receives and returns.

A batch holds the invocations that one run works on. A step runs once for each invocation (`map`)
or once for all of them (`map_batch`). Every result is saved in the event table before the step
ends, so that a retry or another worker resumes after it. `sleep`, `wait_for_event` and `invoke`
are steps too: they suspend an invocation, which resumes after them in a later run.

An invocation that fails or is suspended leaves the batch for the ops that follow. The others
continue, and so do ops in parallel branches of the graph: each op has its own view of which
invocations were dropped on the way to it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from runyard.engine import waits
from runyard.engine.activity import board
from runyard.engine.async_steps import BLOCKED_SECONDS, AsyncDo, AsyncStep, is_async
from runyard.engine.elements import Elements, numbered
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState, Item
from runyard.engine.step_threads import StepThreads
from runyard.engine.steps import StepRecorder
from runyard.errors import Cancelled
from runyard.events import Event
from runyard.functions.retry import Retry
from runyard.syntax.durations import YEAR, Duration

DEFAULT_CHECKPOINT = 100
DEFAULT_TASKS = 50
# How long a run that was interrupted, or has lost its lease, waits for busy threads.
_GRACE_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
Match = str | Sequence[str] | Mapping[str, object]
Element = TypeVar("Element")


class Batch:
    """The invocations of a run that are still active at one op. Ops pass it on and never make one.

    Parameters
    ----------
    state
        What all views of the batch share.
    dropped
        The invocations that left the batch on the way to this op. Default: those that have failed.
    op
        The op's name.
    """

    def __init__(
        self, state: BatchState, dropped: set[int] | None = None, op: str = "receive"
    ) -> None:
        self.state = state
        self.dropped = set(state.failures) if dropped is None else dropped
        self.op = op
        self._board = board()

    @property
    def function(self) -> str:
        """The function's name."""
        return self.state.function

    def __len__(self) -> int:
        return sum(1 for _ in self.active_items())

    def __repr__(self) -> str:
        count = f"{len(self)} of {len(self.state.items)} active"
        return f"Batch({self.state.id}, {self.function}, {count})"

    def active_items(self) -> Iterator[Item]:
        """The invocations that are neither failed nor suspended nor cancelled."""
        self._drop_cancelled()
        return (item for item in self.state.items if item.id not in self.dropped)

    def map(
        self,
        step: str,
        do: Callable[[Item], object],
        *,
        threads: int = 1,
        tasks: int = DEFAULT_TASKS,
        checkpoint_every: int = DEFAULT_CHECKPOINT,
        retry: Retry | None = None,
        when: Callable[[Item], bool] | None = None,
        timeout: Duration | None = None,
    ) -> "Batch":
        """Run a step once for each invocation that has not completed it, and save the results.

        Parameters
        ----------
        step
            The step's name, unique within the function: `prepare-email`.
        do
            Takes an `Item` and returns the result to save: anything that pydantic can turn into
            JSON, up to 4 MiB. An exception fails this invocation alone (see `NonRetriable` and
            `RetryAfter`). An `async def` function runs in an event loop.
        threads
            How many invocations are worked on at a time. Use more than one for a step that waits
            on a network.
        tasks
            The same for an `async def` function, which takes no threads.
        checkpoint_every
            Save results after this many or after half a second, whichever comes first. After a
            crash of the worker at most this many are re-run, and those that were in progress.
            With 1, a thread saves each result before it takes the next item, so that only what
            was in progress is re-run.
        retry
            When this step is retried; by default as the function says.
        when
            Which invocations the step is for; the others continue without a result of it. Default:
            all.
        timeout
            How long `do` may take for one invocation (`"30s"`), at least one second. Default: the
            function's `Timeouts(step=)`, or two hours. The invocation then fails with
            `StepTimeout`. An `async def` function is cancelled; otherwise the process is ended, and
            the rest of the batch resumes in another run.

        Returns
        -------
        This batch, without the invocations that failed.

        Raises
        ------
        LeaseLost
            Another run has taken the batch over; this one does nothing more.
        """
        do = self.state.stubs.get(step, do)
        limit = self.state.limit(timeout, step)
        todo = self._todo(step)
        count = len(todo)
        places = max(1, min(tasks if is_async(do) else threads, count))
        recorder = self._recorder(
            step,
            checkpoint_every,
            retry,
            limit=limit + BLOCKED_SECONDS if is_async(do) else limit,
            expected=count,
            places=places,
        )
        with recorder:
            if when is not None:
                todo = list(_chosen(todo, when, recorder))
            if is_async(do):
                self._map_in_tasks(do, todo, places, recorder, limit)
            elif places == 1 or len(todo) < 2:
                self._map_one_by_one(do, iter(todo), recorder)
            else:
                self._map_in_threads(do, todo, places, recorder)
        return self

    def map_each(
        self,
        step: str,
        elements: Callable[[Item], Sequence[Element]],
        do: Callable[[Item, Element], object],
        *,
        when: Callable[[Item], bool] | None = None,
        **options: Any,
    ) -> "Batch":
        """Run a step once for each element of a list that depends on the item.

        Each result is a step of its own, with its own retries: `section-1`, `section-2` and so on
        for the step `section`. The elements of an invocation are worked on in their order; those of
        different invocations at the same time.

        Parameters
        ----------
        step
            What the steps are called, without their numbers.
        elements
            Takes an item and returns its elements, up to 1,000. They have to be the same at every
            attempt: make them from the results of earlier steps.
        do
            Takes an item and one of its elements.
        when
            Which invocations the steps are for, as for `map`; of the others no elements are made.
        options
            The options of `map` for each of the steps.
        """
        known = Elements(elements, when)
        for number in range(1, known.most(self.active_items()) + 1):
            stub = self.state.stubs.get(step)
            self.map(
                numbered(step, number),
                stub if stub is not None else known.bound(do, number),
                when=partial(known.has, number=number),
                **options,
            )
        return self

    def map_batch(
        self,
        step: str,
        do: Callable[[Sequence[Item]], Sequence[object]],
        *,
        size: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> "Batch":
        """Run a step once for all invocations, for APIs that take many at a time.

        `do` takes a list of items and returns a list of results, one for each item and in the same
        order. A result that is an exception fails that invocation alone; a raised exception fails
        all invocations of the call. `size` limits the items per call, and the results of a call
        are saved before the next call begins. `timeout` limits each call. `step` and `retry` are
        those of `map`.
        """
        if step in self.state.stubs:
            return self.map(step, self.state.stubs[step], retry=retry)
        limit = self.state.limit(timeout, step)
        todo = self._todo(step)
        places = max(1, len(todo))
        size = size or places
        recorder = self._recorder(step, 1, retry, limit=limit, places=places, single_call=True)
        with recorder:
            for start in range(0, len(todo), size):
                recorder.record(recorder.attempt_all(do, todo[start : start + size]))
        return self

    def sleep(self, step: str, duration: Duration | Callable[[Item], Duration]) -> "Batch":
        """Suspend every invocation for a while (up to 366 days); it resumes in a later run.

        `duration` is seconds, a timedelta or text such as `"3d"`, or a function of the item that
        returns one of these. The step's result is None.
        """
        return self._suspend(step, lambda item: waits.sleep(_value(duration, item)))

    def sleep_until(self, step: str, when: datetime | Callable[[Item], datetime]) -> "Batch":
        """Suspend every invocation until a time (with a time zone); a past time suspends nothing.

        The step's result is None.
        """
        return self._suspend(step, lambda item: waits.sleep_until(_value(when, item)))

    def wait_for_event(
        self,
        step: str,
        event: str,
        *,
        match: Match | Callable[[Item], Mapping[str, object]] | None = None,
        filter: str | None = None,
        condition: str | None = None,
        timeout: Duration = YEAR,
    ) -> "Batch":
        """Suspend every invocation until an event comes.

        The step's result is the event's data, or None when `timeout` passes first.

        Parameters
        ----------
        step
            The step's name.
        event
            The name of the awaited event. Events count from the beginning of the run that reaches
            this step.
        match
            A path, or several, whose value must be the same in both events (`data.order_id`); or a
            mapping from paths in the awaited event to the values they must have; or a function of
            the item that returns such a mapping.
        filter
            SQL/JSON path over the awaited event.
        condition
            An expression over the invocation's own event (`event`) and the awaited one (`async`):
            `async.data.order == event.data.order && async.data.total > 100`.
        timeout
            How long to wait, a year by default.
        """

        def request(item: Item) -> waits.WaitRequest:
            matching = match(item) if callable(match) else match
            return waits.event(event, item.event, matching, filter, timeout, condition)

        return self._suspend(step, request)

    def invoke(
        self,
        step: str,
        function: str,
        data: Callable[[Item], Mapping[str, Any]] | None = None,
        *,
        timeout: Duration = YEAR,
    ) -> "Batch":
        """Suspend every invocation until another function has run on an event made for it.

        The step's result is that function's output. `data` makes the event's data from the item
        (default: the data of the item's own event). When the function fails, is cancelled or
        skipped, or does not end within `timeout`, the step raises `InvokeFailed`, which is not
        retried.
        """
        return self._suspend(step, *waits.invoke(function, data, timeout))

    def send_events(self, step: str, make: Callable[[Item], Event | Sequence[Event]]) -> "Batch":
        """Send events exactly once for each invocation, however often it is retried.

        They are sent in the transaction that saves the step's result, which is the list of their
        ids.
        """
        stub = self.state.stubs.get(step)
        if stub is not None:
            return self.map(step, stub)
        todo = self._todo(step)
        limit = self.state.limit(None, step)
        recorder = self._recorder(step, DEFAULT_CHECKPOINT, None, limit=limit, expected=len(todo))
        with recorder:
            for item in todo:
                recorder.record_events(item, make)
        return self

    def join(self, *others: "Batch") -> "Batch":
        """Return the batch after parallel ops: without the invocations dropped by any of them."""
        return Batch(self.state, self.dropped.union(*(other.dropped for other in others)), self.op)

    def fail(self, item: Item, failure: Failure) -> None:
        """Drop an invocation that failed."""
        self.state.failures.setdefault(item.id, failure)
        self.dropped.add(item.id)

    def suspend(self, item: Item, step: str, kind: str) -> None:
        """Drop an invocation until its wait at a step is over."""
        self.state.add_suspended([(item.id, step, kind)])
        self.dropped.add(item.id)

    def _recorder(
        self, step: str, checkpoint_every: int, retry: Retry | None, **options: Any
    ) -> StepRecorder:
        return StepRecorder(
            self.state, self.op, self.fail, step, checkpoint_every, retry, **options
        )

    def _suspend(
        self,
        step: str,
        request: Callable[[Item], waits.WaitRequest],
        children: Callable[[set[int]], str | None] | None = None,
    ) -> "Batch":
        """Save the results of waits that are over, and drop the invocations that still wait."""
        if step in self.state.stubs:
            return self.map(step, self.state.stubs[step])
        todo = {item.id: item for item in self._todo(step)}
        limit = self.state.limit(None, step)
        with self._recorder(step, len(todo), None, limit=limit) as recorder:
            for item, kind in waits.register(recorder, todo, request, children):
                self.suspend(item, step, kind)
        return self

    def _todo(self, step: str) -> list[Item]:
        return [item for item in self.active_items() if step not in item.outputs]

    def _drop_cancelled(self) -> None:
        for item in self.state.items:
            if item.id in self.state.lease.cancelled and item.id not in self.dropped:
                self.fail(item, Failure("", "receive", Cancelled("cancelled")))

    def _map_one_by_one(
        self,
        do: Callable[[Item], object],
        items: Iterator[Item],
        recorder: StepRecorder,
        place: int = 0,
    ) -> None:
        for item in items:
            self._wait_while_paused(recorder)
            if item.id not in self.state.lease.cancelled:
                recorder.record([recorder.attempt(do, item, place=place)])

    def _map_in_threads(
        self,
        do: Callable[[Item], object],
        todo: Sequence[Item],
        count: int,
        recorder: StepRecorder,
    ) -> None:
        queue = _ItemQueue(todo)

        def work(place: int) -> None:
            self._board.enter(place)
            self._map_one_by_one(do, queue, recorder, place)

        threads = StepThreads(work, min(count, len(todo)))
        try:
            threads.start()
            threads.wait(recorder.check)
        finally:
            # When the lease is lost or the run interrupted, busy threads may finish their item,
            # but take no other.
            queue.close()
            threads.abandon(0 if self.state.lease.hung else _GRACE_SECONDS)

    def _map_in_tasks(
        self,
        do: AsyncDo,
        todo: Sequence[Item],
        count: int,
        recorder: StepRecorder,
        limit: float,
    ) -> None:
        queue = _ItemQueue(todo)
        step = AsyncStep(
            do,
            queue,
            recorder,
            limit=limit,
            is_paused=lambda: self._board.paused,
            is_cancelled=lambda item: item.id in self.state.lease.cancelled,
        )
        try:
            step.run(count, lambda: 0 if self.state.lease.hung else _GRACE_SECONDS)
        finally:
            queue.close()

    def _wait_while_paused(self, recorder: StepRecorder) -> None:
        """Begin nothing while an item is past its timeout: it ends, or the process is ended."""
        while self._board.paused:
            time.sleep(_PAUSE_SECONDS)
            recorder.check()


class _ItemQueue(Iterator[Item]):
    """Hands each item to one of several threads, until it is closed."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()
        self._closed = False

    def __next__(self) -> Item:
        with self._lock:
            if self._closed:
                raise StopIteration
            return next(self._items)

    def close(self) -> None:
        """Hand out no more items."""
        self._closed = True


def _chosen(
    todo: Sequence[Item], when: Callable[[Item], bool], recorder: StepRecorder
) -> Iterator[Item]:
    """Yield the items that a step is for; an error of `when` fails the step for its item alone."""
    for item in todo:
        result = recorder.attempt(lambda item: bool(when(item)), item)
        if result.error is not None:
            recorder.record([result])
        elif result.output:
            yield item


def _value(value: Any, item: Item) -> Any:
    return value(item) if callable(value) else value
