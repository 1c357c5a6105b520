"""What a run works on: its items, and the state that all views of their batch share."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic

from typing_extensions import TypeVar

from runyard.engine.failures import Failure
from runyard.engine.invocation_traces import InvocationTrace, begin_trace
from runyard.engine.lease import Lease
from runyard.engine.progress import Reporter
from runyard.engine.settlement import Outcome
from runyard.errors import Cancelled, LeaseLost, NonRetriable, StepHung
from runyard.events import Event, catalog
from runyard.functions import registry
from runyard.functions.flow_control import DEFAULT_STEP_TIMEOUT
from runyard.store.queries import Row
from runyard.syntax.durations import Duration, seconds
from runyard.tracing import recording

# What a test makes steps do instead of their work, by step name.
stubs: ContextVar[Mapping[str, Callable[["Item"], object]]] = ContextVar("stubs", default={})  # noqa: B039 (never changed in place)

# The type of an item's data: `Item` alone is an item with data of any type.
Data = TypeVar("Data", default=Any)


@dataclass
class Item(Generic[Data]):
    """One invocation as a step sees it.

    Attributes
    ----------
    id
        The invocation's id.
    event
        The event, with its id, name, data, user, version and time.
    data
        The event's data: an instance of its type in the catalog, or a plain mapping when it has
        none.
    attempt
        Which attempt of the current step this is, from 1.
    outputs
        The results of completed steps, by step name.
    tries
        How often steps that failed have been tried, by step name.
    created_at
        When the invocation was created; None for an item that a test has made.
    dispatch
        Identifies this run of the invocation among all of its runs: a number that grows.
    events
        All of its events, `event` being the first: several if its function takes them together.
    trace
        Its spans in this run; None while no traces are recorded.
    """

    id: int
    event: Event
    attempt: int
    data: Data
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    tries: dict[str, int] = field(default_factory=dict[str, int])
    reporter: Reporter | None = None
    created_at: datetime | None = None
    dispatch: int = 1
    events: tuple[Event, ...] = ()
    trace: InvocationTrace | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.events = self.events or (self.event,)

    @property
    def key(self) -> str:
        """An idempotency key for calls to other systems.

        It is the same at every attempt, and another one for a replay.
        """
        return f"{self.event.id}-{self.id}"

    def progress(self, percent: float, text: str = "") -> None:
        """Report the progress of the running step: 0 to 100 per cent, and a line of text.

        Clients see it at once in the invocation's stream. Beyond ten reports a second the excess
        is dropped, except for the last one (100 per cent).
        """
        if self.reporter is not None:
            self.reporter.report(self.id, percent, text)

    def write(self, text: str) -> None:
        """Show a text while the running step writes it, piece by piece: each is added to the last.

        Clients see it within a second; it is not the step's result, and is kept for a day. An
        attempt begins with an empty text, and what exceeds 200,000 characters is not shown.
        """
        if self.reporter is not None:
            self.reporter.write(self.id, text)

    def __getitem__(self, step: str) -> Any:
        """The result of a completed step; raises KeyError that lists the completed steps."""
        try:
            return self.outputs[step]
        except KeyError:
            completed = ", ".join(self.outputs) or "none"
            raise KeyError(f"step {step!r} has no result yet; completed: {completed}") from None


def log_fields(item: Item) -> dict[str, object]:
    """What the log says of an item in each line: its event, invocation, attempt and trace."""
    fields: dict[str, object] = {
        "event": item.event.id,
        "invocation": item.id,
        "attempt": item.attempt,
    }
    if item.trace is not None:
        fields["trace"] = f"{item.trace.run.trace_id:032x}"
    return fields


class BatchState:
    """What all views of a batch share: its lease, its items, and why some of them stopped."""

    def __init__(
        self, batch_id: str, run_id: str, function: str, items: Sequence[Item], lease: Lease
    ) -> None:
        self.id = batch_id
        self.run_id = run_id
        self.function = function
        self.items = list(items)
        self.lease = lease
        self.failures: dict[int, Failure] = {}
        # What has become of those that were settled while the others went on.
        self.settled: dict[int, Outcome] = {}
        self.suspended: dict[int, dict[str, str]] = {}
        self.previous_runs: list[str] = []
        self.stubs = stubs.get()

    def suspended_rows(self) -> list[tuple[int, str, str]]:
        """Return the waits of suspended invocations: (invocation, step, kind)."""
        return [
            (invocation, step, kind)
            for invocation, waits in self.suspended.items()
            for step, kind in waits.items()
        ]

    def add_suspended(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Add waits, in the form of `suspended_rows`: of this process, or of ops in another."""
        for invocation, step, kind in rows:
            self.suspended.setdefault(invocation, {})[step] = kind

    def limit(self, timeout: Duration | None, step: str) -> float:
        """Return a step's timeout for one invocation, in seconds; raises `InvalidOption`."""
        if timeout is not None:
            return seconds(timeout, f"timeout=... of step {step!r}", least=1)
        function = registry.find(self.function)
        return DEFAULT_STEP_TIMEOUT if function is None else function.flow.step_timeout

    def check_lease(self) -> None:
        """Raise `LeaseLost` when another run has the batch, `StepHung` after a step that hung.

        A run that is to stop, in a process of many, is interrupted as if it were the only one.
        """
        if self.lease.stopped.is_set():
            raise KeyboardInterrupt
        if self.lease.lost.is_set():
            raise LeaseLost(self.id) if self.lease.hung is None else StepHung(self.lease.hung)


def items_from_rows(
    rows: Sequence[Row], steps: Sequence[Row], run_id: str
) -> tuple[list[Item], dict[int, Failure]]:
    """Make the items of a batch from the rows of its invocations and of their recorded steps.

    Returns the items, and the failures of those that have left the batch already: their data does
    not fit its type, they were cancelled, or this very run has recorded an error of theirs (in
    another process).
    """
    items: list[Item] = []
    failures: dict[int, Failure] = {}
    for row in rows:
        item, failure = _item(row)
        if recording.is_on():
            item.trace = begin_trace(row, run_id)
        items.append(item)
        if failure is not None:
            failures[item.id] = failure
    by_id = {item.id: item for item in items}
    for step in steps:
        item, name, error = by_id[step["invocation_id"]], step["step"], step["error"]
        if error is None:
            item.outputs[name] = step["output"]
            continue
        item.tries[name] = step["tries"]
        if step["run_id"] == run_id:
            failures.setdefault(item.id, Failure.from_json(name, error, step["tries"]))
    return items, failures


def _item(row: Row) -> tuple[Item, Failure | None]:
    event = event_from_row(row)
    data: object = event.data
    failure = None
    try:
        data = catalog.parse(event.name, event.data) or event.data
    except Exception as error:
        unfit = NonRetriable(f"the event's data does not fit its type: {error}")
        failure = Failure("receive", "receive", unfit)
    if row["cancelled"]:
        failure = Failure("", "receive", Cancelled("cancelled before it began"))
    events = (event, *(event_from_row(other) for other in row.get("group", ())))
    item = Item(
        row["id"],
        event,
        row["attempt"],
        data,
        created_at=row["created_at"],
        dispatch=row["dispatch"],
        events=events,
    )
    return item, failure


def event_from_row(row: Row) -> Event:
    """Return the event of a row that has its columns, the user as `user_data`."""
    return Event(
        row["name"],
        row["data"],
        id=row["event_id"],
        ts=row["ts"],
        user=row["user_data"],
        v=row["v"],
    )
