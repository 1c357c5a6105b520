"""`@function`: makes a Python function a durable one, with its job, sensor and schedules."""

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypedDict, Unpack, overload

from dagster import (
    DagsterInvalidDefinitionError,
    JobDefinition,
    ScheduleDefinition,
    in_process_executor,
    job,
)
from typing_extensions import TypeVar

from runyard.authoring.run import Drawing, Run, draw
from runyard.authoring.signatures import Takes, read_body
from runyard.authoring.step import Step
from runyard.dagster_adapter.sensors import FunctionSensor, on_event
from runyard.engine.items import Item
from runyard.errors import InvalidOption
from runyard.events import EventData, catalog
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.retry import Retry
from runyard.functions.triggers import Cron, Trigger

P = ParamSpec("P")
Returned = TypeVar("Returned")
Data = TypeVar("Data", bound=EventData)
Starter = str | Trigger | type[EventData]
Callback = Callable[[Run], object] | Callable[[Item[Any]], object] | Step[..., Any, Any]


class FunctionOptions(TypedDict, total=False):
    """The options of a function, all of which may be left out: those of `on_event`.

    `name` is that of the Python function by default, and `description` its docstring. `on_failure`
    and `on_success` also take a step, or a Python function like that of `@function`.
    """

    name: str
    description: str
    filter: str
    cron: Cron
    max_batch: int
    retry: Retry
    priority: int | Priority
    concurrency: Concurrency | Sequence[Concurrency]
    throttle: Throttle
    rate_limit: RateLimit
    idempotency: Idempotency | str
    debounce: Debounce
    batch: BatchEvents
    singleton: Singleton
    timeouts: Timeouts
    cancel_on: CancelOn | Sequence[CancelOn]
    on_failure: JobDefinition | Callback
    on_success: JobDefinition | Callback


class EventFunction(Generic[P, Returned]):
    """A durable function, as `@function` makes it.

    Attributes
    ----------
    name
        Its name.
    sensor
        Its Dagster sensor.
    jobs
        Its Dagster jobs: its own, and those of its callbacks.
    """

    def __init__(
        self,
        name: str,
        body: Callable[P, Returned] | Step[P, Returned, Any],
        sensor: FunctionSensor,
        jobs: Sequence[JobDefinition],
    ) -> None:
        self.name = name
        self.sensor = sensor
        self.jobs = jobs
        self._body = body
        update_wrapper(self, body, updated=())

    @property
    def job(self) -> JobDefinition:
        """Its Dagster job."""
        return self.jobs[0]

    @property
    def schedules(self) -> Sequence[ScheduleDefinition]:
        """The Dagster schedules of its `cron`."""
        return self.sensor.schedules

    @overload
    def __call__(self, run: Run, /) -> None: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Returned: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the Python function: in a unit test, or with the run of another function's body."""
        return self._body(*args, **kwargs)

    def __repr__(self) -> str:
        return f"EventFunction({self.name})"


class FunctionDecorator:
    """What `@function(...)` returns: it makes a Python function a durable one."""

    def __init__(self, starters: Sequence[Starter], options: FunctionOptions) -> None:
        self._starters = starters
        self._options = options

    @overload
    def __call__(self, body: Step[P, Returned, Any]) -> EventFunction[P, Returned]: ...
    @overload
    def __call__(self, body: Callable[P, Returned]) -> EventFunction[P, Returned]: ...
    def __call__(self, body: Any) -> EventFunction[..., Any]:
        """Make a Python function, or a step alone, a durable function."""
        return _make(self._starters, body, self._options)


class TypedDecorator(Generic[Data]):
    """What `@function(PaymentRequested)` returns: its step takes an `Item[PaymentRequested]`."""

    def __init__(self, starters: Sequence[Starter], options: FunctionOptions) -> None:
        self._starters = starters
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a step can be called with a run, too
        self, body: Step[Concatenate[Item[Data], P], Returned, Any]
    ) -> EventFunction[Concatenate[Item[Data], P], Returned]: ...
    @overload
    def __call__(self, body: Callable[[Run], None]) -> EventFunction[[Run], None]: ...
    @overload
    def __call__(
        self, body: Callable[Concatenate[Item[Data], P], Returned]
    ) -> EventFunction[Concatenate[Item[Data], P], Returned]: ...
    def __call__(self, body: Any) -> EventFunction[..., Any]:
        """Make a Python function, or a step alone, a durable function."""
        return _make(self._starters, body, self._options)


@overload
def function(  # type: ignore[overload-overlap]  # event types are starters too
    event: type[Data], /, **options: Unpack[FunctionOptions]
) -> TypedDecorator[Data]: ...
@overload
def function(*events: Starter, **options: Unpack[FunctionOptions]) -> FunctionDecorator: ...
def function(*events: Starter, **options: Unpack[FunctionOptions]) -> Any:
    """Make a Python function a durable function that events or a cron schedule start.

    A function with the parameter `run: Run` draws a graph of steps when the code loads; one with
    `item: Item` is a single step itself.

    Parameters
    ----------
    events
        What starts it: event names, wildcards (`shop/*`), `Trigger`s, or event types.
    options
        See `FunctionOptions` and `on_event`.

    Returns
    -------
    A decorator, which returns an `EventFunction` for `definitions`.

    Raises
    ------
    InvalidOption
        An option is out of range or contradicts another one, or the name is taken.
    """
    return FunctionDecorator(events, options)


def _make(
    starters: Sequence[Starter], body: Any, options: FunctionOptions
) -> EventFunction[..., Any]:
    name = options.get("name") or _name_of(body)
    _check_options(name, options)
    kinds = [starter for starter in starters if isinstance(starter, type)]
    triggers = [trigger for starter in starters for trigger in _triggers(name, starter)]
    drawn = _drawn(name, body)
    own = _job(name, drawn, _doc_of(body), kinds if len(kinds) == len(starters) else None)
    jobs = [own]
    on_event_options: dict[str, Any] = dict(options)
    for callback in ("on_failure", "on_success"):
        if callback in options:
            made = _callback_job(f"{name}_{callback}", on_event_options[callback])
            on_event_options[callback] = made
            jobs.append(made)
    on_event_options.setdefault("description", _doc_of(body))
    on_event_options["name"] = name
    return EventFunction(name, drawn, on_event(*triggers, job=own, **on_event_options), jobs)


def _check_options(name: str, options: FunctionOptions) -> None:
    known = FunctionOptions.__annotations__
    for option in options:
        if option not in known:
            raise InvalidOption(f"function {name}: {option}= is none of {', '.join(known)}")


def _triggers(name: str, starter: Starter) -> Sequence[str | Trigger]:
    if not isinstance(starter, type):
        return [starter]
    names = catalog.names_of(starter)
    if not names:
        raise InvalidOption(
            f"function {name}: {starter.__name__} is the type of no event:"
            ' decorate it with @event_type("...")'
        )
    return names


def _name_of(body: Any) -> str:
    name: str = getattr(body, "__name__", "")
    return name


def _doc_of(body: Any) -> str | None:
    doc: str | None = getattr(body, "__doc__", None)
    return doc


def _callback_job(name: str, callback: Any) -> JobDefinition:
    if isinstance(callback, JobDefinition):
        return callback
    return _job(name, _drawn(name, callback), _doc_of(callback), None)


def _job(
    name: str, drawn: Callable[..., Any], description: str | None, data: Sequence[type] | None
) -> JobDefinition:
    """Make the job of a function, whose ops hand their batch on by the resource `BATCHES`."""

    def graph() -> None:
        draw(Drawing(name, data), drawn)

    try:
        return job(name=name, description=description, executor_def=in_process_executor)(graph)
    except DagsterInvalidDefinitionError as error:
        raise InvalidOption(f"function {name}: {error}") from None


def _drawn(name: str, body: Any) -> Callable[..., Any]:
    """Return what draws a function's graph: its body, or its only step."""
    if isinstance(body, Step):
        return body
    read = read_body(body)
    if read.takes is not Takes.RUN:
        return Step(read, {"name": name})
    if read.others or read.is_async:
        raise InvalidOption(
            f"function {name} draws its graph when the code loads: write def {read.name}(run: Run),"
            " and let its steps take resources"
        )
    return read.function
