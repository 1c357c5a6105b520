"""`Run`: on which the body of a function draws its graph, one op after the other.

A body runs once, when the code loads, and not for an event: what it calls adds ops to the graph, in
the order in which they will run. The graph begins with `receive` and ends with `settle`, which
nobody has to write.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from dagster import In, OpDefinition, Out, op

from runyard.dagster_adapter.ops import BATCHES, drawn_join, drawn_receive, drawn_settle
from runyard.engine import waits
from runyard.engine.batch import Batch, Match
from runyard.engine.items import Item
from runyard.engine.steps import check_name
from runyard.errors import InvalidOption
from runyard.events import Event
from runyard.syntax.durations import YEAR, Duration

_RECEIVE, _SETTLE, _JOIN = "receive", "settle", "join"
_RESERVED = re.compile(rf"{_RECEIVE}|{_SETTLE}|{_JOIN}(_[0-9]+)?")
_NOT_IN_OP = re.compile(r"[^A-Za-z0-9_]+")


class Named(Protocol):
    """Something with a name, as a function made with `@function`."""

    @property
    def name(self) -> str:
        """The name."""
        ...


class Drawing:
    """What the branches of one graph share.

    Parameters
    ----------
    function
        The function's name.
    data
        The types of the data of the events that start it; None when they are not known.
    """

    def __init__(self, function: str, data: Sequence[type] | None = None) -> None:
        self.function = function
        self.data = data
        self._is_finished = False
        self._steps: dict[str, str] = {}
        self._joins = 0

    def claim(self, step: str) -> str:
        """Return the op name of a step; raises `InvalidOption` when the graph has one already."""
        if self._is_finished:
            raise InvalidOption(
                f"{self.function} has been drawn already: its body may not keep the run"
            )
        name = op_name(check_name(step))
        if _RESERVED.fullmatch(name):
            raise InvalidOption(
                f"{self.function}: no step can be called {step}, as every function has an op"
                f" {name}: give it another name"
            )
        if name in self._steps:
            raise InvalidOption(
                f"{self.function} has two steps called {step}, and results are kept by that name:"
                f' give one of them another name, as in {name}.named("{step}-again")(run)'
            )
        self._steps[name] = step
        return name

    def finish(self) -> None:
        """Let nothing more be drawn; raises `InvalidOption` for a graph without a step."""
        self._is_finished = True
        if not self._steps:
            raise InvalidOption(f"function {self.function} has no step: call one with its run")

    def join(self) -> str:
        """Return a name for another op that joins branches."""
        self._joins += 1
        return _JOIN if self._joins == 1 else f"{_JOIN}_{self._joins}"


class Run:
    """The way of an event through a function, as the function's body draws it.

    Call a step with it (`charge(run)`) to add the step, and its methods to add one that waits,
    invokes or sends. Each is an op in Dagster, and comes after the one before it. The arguments are
    those of the methods of `Batch`; those that depend on the item are functions of it.
    """

    def __init__(self, drawing: Drawing, at: Any) -> None:
        self._drawing = drawing
        self._at = at

    def sleep(self, step: str, duration: Duration | Callable[[Item], Duration]) -> None:
        """Continue after a while, up to 366 days: seconds, a timedelta, or text such as `"3d"`."""
        if not callable(duration):
            self._check(step, lambda: waits.sleep(duration))
        self._add(step, lambda batch: batch.sleep(step, duration), f"Sleep: {_told(duration)}.")

    def sleep_until(self, step: str, when: datetime | Callable[[Item], datetime]) -> None:
        """Continue at a time, which has a time zone."""
        if not callable(when):
            self._check(step, lambda: waits.sleep_until(when))
        self._add(step, lambda batch: batch.sleep_until(step, when), f"Sleep until {_told(when)}.")

    def wait_for_event(
        self,
        step: str,
        event: str,
        *,
        match: Match | Callable[[Item], Mapping[str, object]] | None = None,
        filter: str | None = None,
        timeout: Duration = YEAR,
    ) -> None:
        """Continue when an event comes, or after `timeout`. See `Batch.wait_for_event`."""
        fixed = None if callable(match) else match
        self._check(step, lambda: waits.event(event, Event(event), fixed, filter, timeout))
        self._add(
            step,
            lambda batch: batch.wait_for_event(
                step, event, match=match, filter=filter, timeout=timeout
            ),
            f"Wait for {event}.",
        )

    def invoke(
        self,
        step: str,
        function: str | Named,
        data: Callable[[Item], Mapping[str, Any]] | None = None,
        *,
        timeout: Duration = YEAR,
    ) -> None:
        """Continue when another function has run on an event made for it. See `Batch.invoke`."""
        name = function if isinstance(function, str) else function.name
        self._check(step, lambda: waits.invoke(name, data, timeout))
        self._add(
            step,
            lambda batch: batch.invoke(step, name, data, timeout=timeout),
            f"Invoke {name} and wait for its output.",
        )

    def send_events(self, step: str, make: Callable[[Item], Event | Sequence[Event]]) -> None:
        """Send events, exactly once for each invocation. See `Batch.send_events`."""
        self._add(step, lambda batch: batch.send_events(step, make), "Send events.")

    def parallel(self, *branches: Callable[["Run"], object]) -> None:
        """Go through several branches at a time, and continue when all of them have ended.

        A branch is a step, or a function that takes the branch's own run and draws on it.
        """
        if len(branches) < 2:
            raise InvalidOption(
                f"{self._drawing.function}: give run.parallel two branches or more, as in"
                " run.parallel(mail, post_to_crm)"
            )
        ends = []
        for branch in branches:
            run = Run(self._drawing, self._at)
            branch(run)
            if run._at is self._at:
                raise InvalidOption(
                    f"{self._drawing.function}: a branch of run.parallel has no step"
                )
            ends.append(run._at)
        self._at = drawn_join.alias(self._drawing.join())(ends)

    def add(self, step: str, make: Callable[[str], OpDefinition]) -> None:
        """Add an op that takes a batch and returns it.

        `make` takes a name for the op's definition that no other function has.
        """
        name = self._drawing.claim(step)
        definition = make(f"{self._drawing.function}__{name}")
        self._at = definition.alias(name)(self._at)

    @property
    def drawing(self) -> Drawing:
        """What all branches share."""
        return self._drawing

    def _add(self, step: str, act: Callable[[Batch], Batch], description: str) -> None:
        def make(name: str) -> OpDefinition:
            def compute(batch: Batch) -> Batch:
                return act(batch)

            return batch_op(name, description)(compute)

        self.add(step, make)

    def _check(self, step: str, request: Callable[[], object]) -> None:
        try:
            request()
        except InvalidOption as error:
            raise InvalidOption(f"step {step} of {self._drawing.function}: {error}") from None


def draw(drawing: Drawing, body: Callable[[Run], object]) -> None:
    """Draw a function's graph, from `receive` to `settle`, inside of a Dagster job."""
    run = Run(drawing, drawn_receive.alias(_RECEIVE)())
    body(run)
    drawing.finish()
    drawn_settle.alias(_SETTLE)(run._at)


def batch_op(name: str, description: str | None) -> Callable[[Callable[..., Batch]], OpDefinition]:
    """Return a decorator for an op of a drawn function, which takes a batch and returns it."""
    out = Out(Batch, io_manager_key=BATCHES)
    return op(name=name, ins={"batch": In(Batch)}, out=out, description=description)


def op_name(step: str) -> str:
    """Return a step's name as Dagster takes names: letters, digits and underscores."""
    return _NOT_IN_OP.sub("_", step)


def _told(value: object) -> str:
    return "as the item says" if callable(value) else str(value)
