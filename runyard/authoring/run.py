"""`Run`: on which the body of a function draws its graph, one op after the other.

A body runs once, when the code loads, and not for an event: what it calls adds ops to the graph, in
the order in which they will run. The graph begins with `receive` and ends with `settle`, which
nobody has to write.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, Protocol

from dagster import DagsterError, DagsterInvalidDefinitionError, In, OpDefinition, Out, op

from runyard.authoring.option_checks import check_callable, refused_by_dagster
from runyard.dagster_adapter.ops import BATCHES, drawn_join, drawn_receive, drawn_settle
from runyard.engine import waits
from runyard.engine.batch import Batch, Match
from runyard.engine.items import Item
from runyard.engine.steps import check_name
from runyard.errors import InvalidOption, RunyardError
from runyard.events import MAX_NAME, Event, EventData, catalog
from runyard.syntax.durations import YEAR, Duration, seconds

_RECEIVE, _SETTLE, _JOIN = "receive", "settle", "join"
_RESERVED = re.compile(rf"{_RECEIVE}|{_SETTLE}|{_JOIN}(_[0-9]+)?")
_NOT_IN_OP = re.compile(r"[^A-Za-z0-9_]+")


class Named(Protocol):
    """A function made with `@function`, as far as others name it."""

    @property
    def name(self) -> str:
        """The function's name."""
        ...

    @property
    def sensor(self) -> object:
        """The function's sensor."""
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
        self._steps: set[str] = set()
        self._ops: set[str] = set()
        self._joins = 0

    def claim(self, step: str, op: str | None = None) -> str:
        """Return the op name of a step; raises `InvalidOption` when the graph has one already."""
        if self._is_finished:
            raise InvalidOption(
                f"function {self.function} has been drawn already: its body may not keep the run"
            )
        name = op_name(check_name(step)) if op is None else op
        if _RESERVED.fullmatch(name):
            raise InvalidOption(
                f"function {self.function}: no step can be called {op or step}, as every function"
                f" has an op {name}: give it another name"
            )
        if step in self._steps:
            raise InvalidOption(
                f"function {self.function} has two steps called {step}, and results are kept by"
                f" that name: call one of them {step}-again (for a step that is used twice:"
                f' .named("{step}-again"))'
            )
        self._steps.add(step)
        return self._distinct(name)

    def _distinct(self, name: str) -> str:
        """Return an op's name with a number, when another step's name looks the same to Dagster."""
        distinct, number = name, 1
        while distinct in self._ops:
            number += 1
            distinct = f"{name}_{number}"
        self._ops.add(distinct)
        return distinct

    def finish(self) -> None:
        """Let nothing more be drawn; raises `InvalidOption` for a graph without a step."""
        self._is_finished = True
        if not self._steps:
            raise InvalidOption(
                f"function {self.function} has no step: let its body call one with its run, as in"
                " greet(run); a Python function becomes a step with @step"
            )

    def join(self) -> str:
        """Return a name for another op that joins branches."""
        self._joins += 1
        return _JOIN if self._joins == 1 else f"{_JOIN}_{self._joins}"


_drawn_now: ContextVar[Drawing | None] = ContextVar("drawn_now", default=None)


def drawn_now() -> Drawing | None:
    """Return the graph that is being drawn, while the body of a function runs."""
    return _drawn_now.get()


class NoValue:
    """What a step gives in the body of a function, where nothing has run yet.

    To use it as a value is an error. To type checkers it is None.
    """

    def __init__(self, function: str, step: str) -> None:
        self._why = (
            f"function {function}: step {step} has no value while the body draws the graph, which"
            f" it does once, when the code loads: read item[{step!r}] in a later step, or decide"
            " by it with @step(when=...)"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InvalidOption(self._why)

    def _refuse(self, *_: object) -> NoReturn:
        raise InvalidOption(self._why)

    __bool__ = __len__ = __iter__ = __getitem__ = __await__ = __call__ = _refuse
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = _refuse
    __hash__ = object.__hash__


class Run:
    """The way of an event through a function, as the function's body draws it.

    Call a step with it (`charge(run)`) to add the step, and its methods to add one that waits,
    invokes or sends. Each is an op in Dagster, and comes after the one before it. The arguments are
    those of the methods of `Batch`; those that depend on the item are functions of it.
    """

    def __init__(self, drawing: Drawing, at: Any) -> None:
        self._drawing = drawing
        self._at = at
        self._has_ended = False

    def sleep(self, step: str, duration: Duration | Callable[[Item], Duration]) -> None:
        """Continue after a while, up to 366 days: seconds, a timedelta, or text such as `"3d"`."""
        if not callable(duration):
            self._check(step, lambda: waits.sleep(duration))
        return self._add(
            step, lambda batch: batch.sleep(step, duration), f"Sleep: {_told(duration)}."
        )

    def sleep_until(self, step: str, when: datetime | Callable[[Item], datetime]) -> None:
        """Continue at a time, which has a time zone."""
        if not callable(when):
            self._check(step, lambda: waits.sleep_until(when))
        return self._add(
            step, lambda batch: batch.sleep_until(step, when), f"Sleep until {_told(when)}."
        )

    def wait_for_event(
        self,
        step: str,
        event: str | type[EventData],
        *,
        match: Match | Callable[[Item], Mapping[str, object]] | None = None,
        filter: str | None = None,
        condition: str | None = None,
        timeout: Duration = YEAR,
    ) -> None:
        """Continue when an event comes, or after `timeout`. See `Batch.wait_for_event`.

        `event` is a name, or the type of one event's data.
        """
        name = self._event_name(step, event)
        fixed = None if callable(match) else match
        self._check(step, lambda: waits.event(name, Event(name), fixed, filter, timeout, condition))
        return self._add(
            step,
            lambda batch: batch.wait_for_event(
                step, name, match=match, filter=filter, condition=condition, timeout=timeout
            ),
            f"Wait for {name}.",
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
        name = name_of(function)
        what = f"step {step} of {self._drawing.function}"
        if data is not None:
            check_callable(what, "data", data, 'lambda item: {"to": item.data["to"]}')
        self._check(step, lambda: seconds(timeout, "invoke(timeout=...)"))
        return self._add(
            step,
            lambda batch: batch.invoke(step, name, data, timeout=timeout),
            f"Invoke {name} and wait for its output.",
        )

    def send_events(self, step: str, make: Callable[[Item], Event | Sequence[Event]]) -> None:
        """Send events, exactly once for each invocation. See `Batch.send_events`."""
        what = f"step {step} of {self._drawing.function}"
        check_callable(what, "make", make, 'lambda item: Event("mail/sent", {"id": item.id})')
        description = _doc(make, "Send events.")
        return self._add(step, lambda batch: batch.send_events(step, make), description)

    def parallel(self, *branches: Callable[["Run"], object]) -> None:
        """Go through several branches at a time, and continue when all of them have ended.

        A branch is a step, or a function that takes the branch's own run and draws on it.
        """
        if len(branches) < 2 or any(not _is_branch(branch) for branch in branches):
            raise InvalidOption(
                f"function {self._drawing.function}: give run.parallel two branches or more, one by"
                " one and not called: run.parallel(mail, post_to_crm)"
            )
        ends = [self._end_of(branch) for branch in branches]
        self._at = drawn_join.alias(self._drawing.join())(ends)

    def _end_of(self, branch: Callable[["Run"], object]) -> Any:
        """Draw a branch, and return its last op."""
        before, run = self._at, Run(self._drawing, self._at)
        branch(run)
        run._has_ended = True
        name = getattr(branch, "__name__", repr(branch))
        if self._at is not before:
            raise InvalidOption(
                f"function {self._drawing.function}: the branch {name} of run.parallel draws on the"
                " run outside of it: let it draw on its own, as in lambda branch: mail(branch)"
            )
        if run._at is before:
            raise InvalidOption(
                f"function {self._drawing.function}: the branch {name} of run.parallel has no step:"
                " let it call one with its run, or make it a step with @step"
            )
        return run._at

    def add(self, step: str, make: Callable[[str], OpDefinition], op: str | None = None) -> None:
        """Add an op that takes a batch and returns it; its name is by default that of the step.

        `make` takes a name for the op's definition that no other function has. What this returns
        is None for type checkers, and cannot be used as a value (see `NoValue`).
        """
        function = self._drawing.function
        name = self._drawing.claim(step, op)
        if self._has_ended:
            raise InvalidOption(
                f"function {function}: step {step} is added to a branch of run.parallel that has"
                " ended: add it inside of the branch, or to the run that goes on"
            )
        try:
            definition = make(f"{function}__{name}")
            self._at = definition.alias(name)(self._at)
        except DagsterInvalidDefinitionError as error:
            fix = f"Give the step another name, or its op alone: @step(op={f'{name}_step'!r})"
            raise refused_by_dagster(f"function {function}: step {step}", error, fix) from None
        return _no_value(function, step)

    @property
    def drawing(self) -> Drawing:
        """What all branches share."""
        return self._drawing

    def _event_name(self, step: str, event: str | type[EventData]) -> str:
        names = catalog.names_of(event) if isinstance(event, type) else [event]
        if len(names) == 1 and isinstance(names[0], str) and 1 <= len(names[0]) <= MAX_NAME:
            return names[0]
        given = event.__name__ if isinstance(event, type) else repr(event)
        raise InvalidOption(
            f"step {step} of {self._drawing.function}: event={given}: give an event's name, or the"
            " type of the data of one event"
        )

    def _add(self, step: str, act: Callable[[Batch], Batch], description: str) -> None:
        def make(name: str) -> OpDefinition:
            def compute(batch: Batch) -> Batch:
                return act(batch)

            return batch_op(name, description)(compute)

        return self.add(step, make)

    def _check(self, step: str, request: Callable[[], object]) -> None:
        try:
            request()
        except InvalidOption as error:
            raise InvalidOption(f"step {step} of {self._drawing.function}: {error}") from None


def draw(drawing: Drawing, body: Callable[[Run], object]) -> None:
    """Draw a function's graph, from `receive` to `settle`, inside of a Dagster job."""
    run = Run(drawing, drawn_receive.alias(_RECEIVE)())
    token = _drawn_now.set(drawing)
    try:
        _check_value(drawing.function, body(run))
    except (RunyardError, DagsterError):
        raise
    except Exception as error:
        hint = "and has neither data nor results: use those in steps"
        if isinstance(error, NameError):
            hint = "so the steps that it calls stand above it in the module"
        raise InvalidOption(
            f"function {drawing.function}: its body raised {type(error).__name__}: {error}. It runs"
            f" once, when the code loads, to draw the graph, {hint}"
        ).with_traceback(error.__traceback__) from None
    finally:
        _drawn_now.reset(token)
    drawing.finish()
    drawn_settle.alias(_SETTLE)(run._at)


def batch_op(name: str, description: str | None) -> Callable[[Callable[..., Batch]], OpDefinition]:
    """Return a decorator for an op of a drawn function, which takes a batch and returns it."""
    out = Out(Batch, io_manager_key=BATCHES)
    return op(name=name, ins={"batch": In(Batch)}, out=out, description=description)


def name_of(function: str | Named) -> str:
    """Return the name of a function; raises `InvalidOption` for what is none."""
    if isinstance(function, str):
        return function
    if hasattr(function, "sensor"):
        return function.name
    name = getattr(function, "__name__", repr(function))
    raise InvalidOption(f"{name} is not a function: give one made with @function(...), or its name")


def _no_value(function: str, step: str) -> None:
    return NoValue(function, step)  # type: ignore[return-value]


def _is_branch(branch: object) -> bool:
    return callable(branch) and not isinstance(branch, NoValue)


def _check_value(function: str, value: object) -> None:
    if value is not None and not isinstance(value, NoValue):
        raise InvalidOption(
            f"function {function}: its body returns {type(value).__name__}, and only draws the"
            " graph: return nothing. The output of a function is that of its last step"
        )


def op_name(step: str) -> str:
    """Return a step's name as Dagster takes names: letters, digits and underscores."""
    return _NOT_IN_OP.sub("_", step)


def _doc(function: Callable[..., object], otherwise: str) -> str:
    """Return what a function says of itself; a lambda says nothing."""
    return (inspect.getdoc(function) if inspect.isroutine(function) else None) or otherwise


def _told(value: object) -> str:
    return "as the item says" if callable(value) else str(value)
