"""`@function`: makes a Python function a durable one, with its job, sensor and schedules."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypedDict, Unpack, overload

from dagster import (
    DagsterInvalidDefinitionError,
    JobDefinition,
    ScheduleDefinition,
    in_process_executor,
    job,
)
from typing_extensions import TypeVar

from runyard.authoring.option_checks import check_kinds, refused_by_dagster, without_none
from runyard.authoring.run import Drawing, Run, draw
from runyard.authoring.signatures import Takes, read_body
from runyard.authoring.step import Step, StepOptions
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
from runyard.functions.option_names import check_names
from runyard.functions.retry import Retry
from runyard.functions.triggers import Cron, Trigger

P = ParamSpec("P")
Returned = TypeVar("Returned")
Data = TypeVar("Data", bound=EventData)
Starter = str | Trigger | type[EventData]
Callback = Callable[[Run], object] | Callable[[Item[Any]], object] | Step[..., Any, Any]


class FunctionOptions(TypedDict, total=False):
    """The options of a function, all of which may be left out: those of `on_event`.

    `name` is that of the Python function by default. `description` is that of the job and the
    sensor; by default the job has the docstring, and the sensor says what starts the function.
    `on_failure` and `on_success` also take a step, or a Python function like that of `@function`.
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


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "description": (str,),
    "filter": (str,),
    "cron": (Cron,),
    "max_batch": (int,),
    "retry": (Retry,),
    "priority": (int, Priority),
    "concurrency": (Concurrency,),
    "throttle": (Throttle,),
    "rate_limit": (RateLimit,),
    "idempotency": (str, Idempotency),
    "debounce": (Debounce,),
    "batch": (BatchEvents,),
    "singleton": (Singleton,),
    "timeouts": (Timeouts,),
    "cancel_on": (CancelOn,),
}
_SEVERAL = {"concurrency", "cancel_on"}
_CALLBACKS = ("on_failure", "on_success")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_CRON = re.compile(r"[\d*/,-]+( [\d*/,A-Za-z-]+){4}")


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

    def __reduce__(self) -> str:
        """Let pickle find the function by its name, as it does Python functions."""
        return str(getattr(self, "__qualname__", self.name))


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


class TypedDecorator(Protocol[Data]):
    """What `@function(PaymentRequested)` is to type checkers.

    Its step takes an `Item[PaymentRequested]`. When it runs it is a `FunctionDecorator`.
    """

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
    for event in events:
        _check_starter(event)
    return FunctionDecorator(events, options)


def _make(
    starters: Sequence[Starter], body: Any, options: FunctionOptions
) -> EventFunction[..., Any]:
    given = without_none(options)
    name = _checked_name(body, given)
    triggers = [trigger for starter in starters for trigger in _triggers(name, starter)]
    if not triggers and "cron" not in given:
        raise InvalidOption(
            f'function {name} is started by nothing: give it an event, as in @function("{name}/go")'
            ", or cron=Cron(...)"
        )
    drawn = _drawn(name, body)
    description = given.get("description") or _doc_of(body)
    own = _job(name, drawn, description, _data_of(triggers) if "cron" not in given else None)
    jobs = [own]
    for callback in _CALLBACKS:
        if callback in given:
            given[callback] = _callback_job(name, callback, given[callback])
            jobs.append(given[callback])
    given["name"] = name
    return EventFunction(name, drawn, on_event(*triggers, job=own, **given), jobs)


def _checked_name(body: Any, options: Mapping[str, Any]) -> str:
    """Return a function's name, once its options are of the right types."""
    name = options.get("name", getattr(body, "__name__", ""))
    for option in options:
        if option in ("event", "events", "trigger", "triggers", "on"):
            raise InvalidOption(
                f'function {name}: write its events without {option}=, as in @function("{name}/go")'
            )
        if option in StepOptions.__annotations__ and option not in FunctionOptions.__annotations__:
            raise InvalidOption(
                f"function {name}: {option}= is for steps: write @step({option}=...) below"
                " @function, or on a step that its body calls"
            )
    check_names(f"function {name}", options, FunctionOptions.__annotations__)
    check_kinds(f"function {name}", options, _KINDS, _SEVERAL)
    if not _NAME.fullmatch(name):
        raise InvalidOption(
            f"function {name!r}: give it a name of letters, digits and underscores, as Dagster"
            ' takes names: @function(..., name="take_payment")'
        )
    return str(name)


def _check_starter(starter: object) -> None:
    if isinstance(starter, str) and _CRON.fullmatch(starter):
        raise InvalidOption(
            f"@function({starter!r}): that is a schedule, and no event: give it as"
            f" cron=Cron({starter!r})"
        )
    if isinstance(starter, str | Trigger):
        return
    if isinstance(starter, type) and issubclass(starter, EventData):
        return
    if isinstance(starter, type):
        raise InvalidOption(
            f"@function({starter.__name__}): the type of an event's data is a subclass of"
            " EventData, decorated with @event_type(...)"
        )
    name = getattr(starter, "__name__", None)
    if callable(starter) and name:
        raise InvalidOption(
            f'@function for {name}: write what starts it, as @function("{name}/go")'
        )
    raise InvalidOption(
        f"@function({starter!r}): give the names of events, one by one, Triggers, or the types of"
        " their data"
    )


def _data_of(triggers: Sequence[str | Trigger]) -> Sequence[type] | None:
    """Return the types of the data of a function's events; None when not all of them are known."""
    names = [trigger if isinstance(trigger, str) else trigger.event for trigger in triggers]
    kinds = [catalog.known(name) for name in names]
    known = [kind for kind in kinds if kind is not None]
    return known if len(known) == len(kinds) else None


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


def _doc_of(body: Any) -> str | None:
    doc: str | None = getattr(body, "__doc__", None)
    return doc


def _callback_job(function: str, option: str, callback: Any) -> JobDefinition:
    if isinstance(callback, JobDefinition):
        return callback
    if isinstance(callback, EventFunction) or not callable(callback):
        raise InvalidOption(
            f"function {function}: {option}={callback!r}: give a step, or a Python function that"
            " takes an item or a run and has no decorator"
        )
    name = f"{function}_{option}"
    # Its event is one of Runyard's own, whose data has no type.
    return _job(name, _drawn(name, callback), _doc_of(callback), [dict])


def _job(
    name: str, drawn: Callable[..., Any], description: str | None, data: Sequence[type] | None
) -> JobDefinition:
    """Make the job of a function, whose ops hand their batch on by the resource `BATCHES`."""

    def graph() -> None:
        draw(Drawing(name, data), drawn)

    try:
        return job(name=name, description=description, executor_def=in_process_executor)(graph)
    except DagsterInvalidDefinitionError as error:
        fix = f"Give the function another name: @function(..., name={f'{name}_function'!r})"
        raise refused_by_dagster(f"function {name}", error, fix) from None


def _drawn(name: str, body: Any) -> Callable[..., Any]:
    """Return what draws a function's graph: its body, or its only step."""
    if isinstance(body, Step):
        return body
    read = read_body(body)
    if read.takes is not Takes.RUN:
        return Step(read, {"name": name})
    if read.others or read.is_async or read.is_generator:
        raise InvalidOption(
            f"function {name} draws its graph once, when the code loads: write def"
            f" {read.name}(run: Run), without async, yield or other parameters; its steps may be"
            " async and take resources"
        )
    return read.function
