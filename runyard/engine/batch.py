"""The batch: what an op receives and returns.

A batch holds the invocations that one run works on. A step runs once for each (`map`) or once for all (`map_batch`);
every result is kept in the event table before the step is over, so that a retry or another worker goes on behind it.
`sleep`, `wait_for_event` and `invoke` are steps too: they suspend an invocation, which goes on behind them in a later run.

An invocation that fails or suspends leaves the batch for the ops that follow; its neighbours go on, and so do ops that stand
beside this one in the graph: each op has its own view of who has left on the way to it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from runyard.engine import waits
from runyard.engine.activity import board
from runyard.engine.crew import Crew
from runyard.engine.failures import Failure
from runyard.engine.items import BatchState, Item
from runyard.engine.progress import Reporter
from runyard.engine.steps import StepRecorder
from runyard.errors import Cancelled
from runyard.events import Event
from runyard.functions.retry import Retry
from runyard.syntax.durations import YEAR, Duration

DEFAULT_WINDOW = 100
# How long a run that is interrupted, or has lost its lease, waits for what is under way in threads.
_LAST_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
Match = str | Sequence[str] | Mapping[str, object]


class Batch:
    """The invocations of one run, and who is still with them here. Ops pass it on; they do not make one."""

    def __init__(
        self, shared: BatchState, dropped: set[int] | None = None, op: str = "receive"
    ) -> None:
        self.shared = shared
        self.dropped = set(shared.failures) if dropped is None else dropped
        self.op = op
        self._board = board()

    @property
    def function(self) -> str:
        """The function's name."""
        return self.shared.function

    def __len__(self) -> int:
        return sum(1 for _ in self.live())

    def __repr__(self) -> str:
        return f"Batch({self.shared.id}, {self.function}, {len(self)} of {len(self.shared.items)} going on)"

    def live(self) -> Iterator[Item]:
        """The invocations that go on here: neither failed, nor suspended, nor cancelled."""
        self._drop_cancelled()
        return (item for item in self.shared.items if item.id not in self.dropped)

    def map(
        self,
        step: str,
        do: Callable[[Item], object],
        *,
        threads: int = 1,
        checkpoint_every: int = DEFAULT_WINDOW,
        retry: Retry | None = None,
        when: Callable[[Item], bool] | None = None,
        timeout: Duration | None = None,
    ) -> "Batch":
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
        checkpoint_every
            Results are kept after this many or half a second, whichever comes first. After a crash of the worker no
            more than this many are done again, and those that it was in the middle of. With 1 each result is kept before its thread
            takes another item: only what was being done is done again.
        retry
            When this step is tried again; as the function says by default.
        when
            Which invocations the step is for; the others go on without a result of it. All by default.
        timeout
            How long `do` may take for an invocation: `"30s"`, a second at least; by default what
            the function's `Timeouts(step=)` says, or two hours. It fails then with `StepTimeout`,
            and is ended with its process. The rest of the batch goes on in another run.

        Returns
        -------
        This batch, without those that failed.

        Raises
        ------
        LeaseLost
            Another run has the batch; nothing more is done.
        """
        do = self.shared.stubs.get(step, do)
        limit = self.shared.limit(timeout, step)
        todo = self._todo(step)
        count = len(todo)
        places = max(1, min(threads, count))
        window = checkpoint_every
        with self._recorder(
            step, window, retry, limit=limit, expected=count, places=places
        ) as recorder:
            if when is not None:
                todo = list(_chosen(todo, when, recorder))
            if threads == 1 or len(todo) < 2:
                self._map_one_by_one(do, iter(todo), recorder)
            else:
                self._map_in_threads(do, todo, threads, recorder)
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
        """Run a step on all invocations at once, for interfaces that take many.

        As `map`, but `do` takes a list of items and returns a list as long, in the same order; an element that is an
        exception fails that invocation alone, and an exception raised fails all of the call. `size` limits how many a call takes;
        the results of a call are kept before the next one begins. `timeout` is how long one may take.
        """
        if step in self.shared.stubs:
            return self.map(step, self.shared.stubs[step], retry=retry)
        limit = self.shared.limit(timeout, step)
        todo = self._todo(step)
        places = max(1, len(todo))
        with self._recorder(step, 1, retry, limit=limit, places=places, together=True) as recorder:
            for start in range(0, len(todo), size or max(1, len(todo))):
                recorder.take(recorder.attempt_all(do, todo[start : start + (size or len(todo))]))
        return self

    def sleep(self, step: str, duration: Duration | Callable[[Item], Duration]) -> "Batch":
        """Suspend every invocation for a while (up to 366 days); behind this step it goes on in a later run. The step's result is None.

        `duration` is seconds, a timedelta or text such as `"3d"`, or a function of the item that gives one.
        """
        return self._suspend(step, lambda item: waits.sleep(_value(duration, item)))

    def sleep_until(self, step: str, when: datetime | Callable[[Item], datetime]) -> "Batch":
        """As `sleep`, until a time (with a time zone); one that has passed already suspends nothing."""
        return self._suspend(step, lambda item: waits.sleep_until(_value(when, item)))

    def wait_for_event(
        self,
        step: str,
        event: str,
        *,
        match: Match | Callable[[Item], Mapping[str, object]] | None = None,
        filter: str | None = None,
        timeout: Duration = YEAR,
    ) -> "Batch":
        """Suspend every invocation until an event comes; its data is the step's result, None when `timeout` passes without it.

        Parameters
        ----------
        step
            The step's name.
        event
            The name of the event that is awaited. One that came after the run which reaches this step began counts too.
        match
            A path that must hold the same in both events (`data.order_id`), or several; or a mapping of paths in the awaited event to
            the values they must hold; or a function of the item that gives such a mapping.
        filter
            SQL/JSON path over the awaited event.
        timeout
            How long to wait, a year by default.
        """
        return self._suspend(
            step,
            lambda item: waits.event(
                event,
                item.event,
                _value(match, item) if callable(match) else match,
                filter,
                timeout,
            ),
        )

    def invoke(
        self,
        step: str,
        function: str,
        data: Callable[[Item], Mapping[str, Any]] | None = None,
        *,
        timeout: Duration = YEAR,
    ) -> "Batch":
        """Suspend every invocation until another function has run on an event of its own; what that gives is the step's result.

        `data` makes that event's data of the item (the item's own by default). When the function fails, is cancelled or skipped, or has not
        ended within `timeout`, the step raises `InvokeFailed`, which is not tried again.
        """
        return self._suspend(step, *waits.invoke(function, data, timeout))

    def send_events(self, step: str, make: Callable[[Item], Event | Sequence[Event]]) -> "Batch":
        """Send events, once for each invocation whatever is tried again: they are sent with the step's result, or not at all.

        The step's result is the list of their ids.
        """
        do = self.shared.stubs.get(step)
        if do is not None:
            return self.map(step, do)
        todo = self._todo(step)
        limit = self.shared.limit(None, step)
        with self._recorder(step, DEFAULT_WINDOW, None, limit=limit, expected=len(todo)) as recorder:
            for item in todo:
                recorder.take_events(item, make)
        return self

    def join(self, *others: "Batch") -> "Batch":
        """The batch behind several ops that ran beside each other: without those that left it in any of them."""
        return Batch(self.shared, self.dropped.union(*(other.dropped for other in others)), self.op)

    def fail(self, item: Item, failure: Failure) -> None:
        """Take an invocation out of the batch."""
        self.shared.failures.setdefault(item.id, failure)
        self.dropped.add(item.id)

    def suspend(self, item: Item, step: str, kind: str) -> None:
        """Take an invocation out of the batch until what it waits for at a step is over."""
        self.shared.add_suspended([(item.id, step, kind)])
        self.dropped.add(item.id)

    def _recorder(
        self, step: str, window: int, retry: Retry | None, **options: Any
    ) -> StepRecorder:
        return StepRecorder(self.shared, self.op, self.fail, step, window, retry, **options)

    def _suspend(
        self,
        step: str,
        ask: Callable[[Item], waits.Asked],
        children: Callable[[set[int]], str | None] | None = None,
    ) -> "Batch":
        """Keep the results of waits that are over; take the invocations whose wait goes on out of the batch."""
        if step in self.shared.stubs:
            return self.map(step, self.shared.stubs[step])
        todo = {item.id: item for item in self.live() if step not in item.outputs}
        limit = self.shared.limit(None, step)
        with self._recorder(step, len(todo), None, limit=limit) as recorder:
            for item, kind in waits.register(recorder, todo, ask, children):
                self.suspend(item, step, kind)
        return self

    def _todo(self, step: str) -> list[Item]:
        todo = [item for item in self.live() if step not in item.outputs]
        reporter = Reporter(self.shared.id, self.shared.run_id, step)
        for item in todo:
            item.reporter = reporter
        return todo

    def _drop_cancelled(self) -> None:
        for item in self.shared.items:
            if item.id in self.shared.lease.cancelled and item.id not in self.dropped:
                self.fail(item, Failure("", "receive", Cancelled("cancelled")))

    def _map_one_by_one(
        self,
        do: Callable[[Item], object],
        waiting: Iterator[Item],
        recorder: StepRecorder,
        place: int = 0,
    ) -> None:
        for item in waiting:
            self._wait_while_paused(recorder)
            if item.id not in self.shared.lease.cancelled:
                recorder.take([recorder.attempt(do, item, place=place)])

    def _map_in_threads(
        self, do: Callable[[Item], object], todo: Sequence[Item], threads: int, recorder: StepRecorder
    ) -> None:
        waiting = _Handed(todo)

        def work(place: int) -> None:
            self._board.enter(place)
            self._map_one_by_one(do, waiting, recorder, place)

        crew = Crew(work, min(threads, len(todo)))
        try:
            crew.start()
            crew.wait(recorder.check)
        finally:
            # When the lease is lost or the run interrupted, what is under way may end; nothing begins.
            waiting.close()
            crew.leave(0 if self.shared.lease.hung else _LAST_SECONDS)

    def _wait_while_paused(self, recorder: StepRecorder) -> None:
        """Begin nothing while another item is past its time: that ends, or the process does."""
        while self._board.paused:
            time.sleep(_PAUSE_SECONDS)
            recorder.check()


class _Handed(Iterator[Item]):
    """Items for several threads, each to one of them, until it is closed."""

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
        """Give no more."""
        self._closed = True


def _chosen(
    todo: Sequence[Item], when: Callable[[Item], bool], recorder: StepRecorder
) -> Iterator[Item]:
    """The items that a step is for; where `when` raises, that is a failure of the step for this item alone."""
    for item in todo:
        result = recorder.attempt(lambda item: bool(when(item)), item)
        if result.error is not None:
            recorder.take([result])
        elif result.output:
            yield item


def _value(given: Any, item: Item) -> Any:
    return given(item) if callable(given) else given
