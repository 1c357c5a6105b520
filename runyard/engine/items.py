"""What a run works on: its items, and what all views of their batch share."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

from runyard.engine.failures import Failure
from runyard.engine.lease import Lease
from runyard.engine.progress import Reporter
from runyard.errors import Cancelled, LeaseLost, NonRetriable, StepHung
from runyard.events import Event, EventData, catalog
from runyard.functions import registry
from runyard.functions.flow_control import DEFAULT_STEP_TIMEOUT
from runyard.store.queries import Row
from runyard.syntax.durations import Duration, seconds

# What a test has a step do instead, by the step's name.
stubs: ContextVar[Mapping[str, Callable[["Item"], object]]] = ContextVar("stubs", default={})  # noqa: B039 (never changed in place)


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
        The number of this attempt of the step that it is at, from 1.
    """

    id: int
    event: Event
    attempt: int
    data: Any
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    tries: dict[str, int] = field(default_factory=dict[str, int])
    reporter: Reporter | None = None

    @property
    def key(self) -> str:
        """An id for what the invocation makes outside: the same at every attempt, another for a replay."""
        return f"{self.event.id}-{self.id}"

    def progress(self, percent: float, text: str = "") -> None:
        """Say how far the step is that runs now: 0 to 100 per cent, and a line of text.

        Clients see it at once in the stream of the invocation. More than ten a second are left out, except the last (100 per cent).
        """
        if self.reporter is not None:
            self.reporter.report(self.id, percent, text)

    def __getitem__(self, step: str) -> Any:
        """The kept result of an earlier step; raises KeyError with the names there are."""
        try:
            return self.outputs[step]
        except KeyError:
            raise KeyError(
                f"step {step!r} has no result yet; there are: {', '.join(self.outputs) or 'none'}"
            ) from None


class BatchState:
    """What all views of a batch share: its lease, its items, and why some of them went no further."""

    def __init__(
        self, batch_id: str, run_id: str, function: str, items: Sequence[Item], lease: Lease
    ) -> None:
        self.id = batch_id
        self.run_id = run_id
        self.function = function
        self.items = list(items)
        self.lease = lease
        self.failures: dict[int, Failure] = {}
        self.suspended: dict[int, dict[str, str]] = {}
        self.previous_runs: list[str] = []
        self.stubs = stubs.get()

    def suspended_rows(self) -> list[tuple[int, str, str]]:
        """What invocations wait for: (invocation, step, kind)."""
        return [
            (invocation, step, kind)
            for invocation, waits in self.suspended.items()
            for step, kind in waits.items()
        ]

    def add_suspended(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Add what invocations wait for, as `suspended_rows` gives it: those of this process, or what ops of others have suspended."""
        for invocation, step, kind in rows:
            self.suspended.setdefault(invocation, {})[step] = kind

    def limit(self, timeout: Duration | None, step: str) -> float:
        """How many seconds a step may take for an invocation; raises `InvalidOption`."""
        if timeout is not None:
            return seconds(timeout, f"timeout=... of step {step!r}", least=1)
        function = registry.find(self.function)
        return DEFAULT_STEP_TIMEOUT if function is None else function.flow.step_timeout

    def check_lease(self) -> None:
        """Raise `LeaseLost` when another run has the batch, `StepHung` where a step did not end."""
        if self.lease.lost.is_set():
            raise LeaseLost(self.id) if self.lease.hung is None else StepHung(self.lease.hung)


def items_from_rows(
    rows: Sequence[Row], steps: Sequence[Row], run_id: str
) -> tuple[list[Item], dict[int, Failure]]:
    """Make the items of a batch from its invocations and kept steps; those whose data does not fit its type have failed.

    An error that this very run has kept (in another process) means that the invocation has left the batch already.
    """
    items: list[Item] = []
    failures: dict[int, Failure] = {}
    for row in rows:
        event = Event(
            row["name"],
            row["data"],
            id=row["event_id"],
            ts=row["ts"],
            user=row["user_data"],
            v=row["v"],
        )
        data: EventData | Mapping[str, Any] = event.data
        try:
            data = catalog.parse(event.name, event.data) or event.data
        except Exception as error:
            failures[row["id"]] = Failure(
                "receive",
                "receive",
                NonRetriable(f"the event's data does not fit its type: {error}"),
            )
        if row["cancelled"]:
            failures[row["id"]] = Failure("", "receive", Cancelled("cancelled before it began"))
        items.append(Item(row["id"], event, row["attempt"], data))
    by_id = {item.id: item for item in items}
    for kept in steps:
        item = by_id[kept["invocation_id"]]
        if kept["error"] is None:
            item.outputs[kept["step"]] = kept["output"]
            continue
        item.tries[kept["step"]] = kept["tries"]
        if kept["run_id"] == run_id:
            failures.setdefault(
                item.id,
                Failure.from_json(kept["step"], cast(dict[str, Any], kept["error"]), kept["tries"]),
            )
    return items, failures
