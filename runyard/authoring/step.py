"""`@step`: makes a Python function a step of functions, and its op.

The decorated function stays one: a unit test calls it with an item and its resources. Called with a
`Run`, in the body of a function, it adds itself to the graph.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial, update_wrapper
from types import UnionType
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypedDict,
    Union,
    Unpack,
    get_args,
    get_origin,
    overload,
)

from dagster import (
    ConfigurableResource,
    DagsterInvalidDefinitionError,
    OpDefinition,
    OpExecutionContext,
)
from pydantic import PydanticSchemaGenerationError, TypeAdapter
from typing_extensions import TypeVar

from runyard.authoring.option_checks import check_callable, check_kinds, without_none
from runyard.authoring.run import Run, batch_op, drawn_now
from runyard.authoring.signatures import Body, Takes, accepts, read_body
from runyard.engine import elements
from runyard.engine.batch import Batch
from runyard.engine.items import Item
from runyard.engine.steps import check_name
from runyard.errors import InvalidOption
from runyard.functions.flow_control import MAX_BATCH_SIZE
from runyard.functions.option_names import check_names
from runyard.functions.retry import Retry
from runyard.syntax.durations import Duration, seconds

P = ParamSpec("P")
Returned = TypeVar("Returned")
Result = TypeVar("Result")


class StepOptions(TypedDict, total=False):
    """The options of a step, all of which may be left out.

    Attributes
    ----------
    name
        The step's name, by which its result is kept; that of the Python function by default.
    op
        The name of its op; the step's name by default, with underscores for hyphens.
    threads, tasks, checkpoint_every, retry, when, timeout
        For a step of an item, see `Batch.map`. `tasks` is for `async def`, `threads` for others.
    each
        Makes the step one for each element of a list, which this function returns for an item. The
        element is the step's second parameter. See `Batch.map_each`.
    size
        For a step of `items: Sequence[Item]`, see `Batch.map_batch`.
    """

    name: str
    op: str
    threads: int
    tasks: int
    checkpoint_every: int
    retry: Retry
    when: Callable[[Item], bool]
    timeout: Duration
    each: Callable[[Item], Sequence[Any]]
    size: int


_NAMES = {"name", "op"}
_COMMON = {*_NAMES, "retry", "timeout"}
_ALLOWED: Mapping[Takes, set[str]] = {
    Takes.ITEM: {*_COMMON, "threads", "tasks", "checkpoint_every", "when", "each"},
    Takes.ITEMS: {*_COMMON, "size"},
    Takes.BATCH: _NAMES,
}


_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_KINDS = {"retry": (Retry,)}
_EXAMPLES = {"when": "lambda item: item.data['paid']", "each": "lambda item: item['outline']"}


class Step(Generic[P, Returned, Result]):
    """A step, as `@step` makes it.

    Parameters
    ----------
    body
        The Python function.
    options
        The step's options.

    Raises
    ------
    InvalidOption
        The function cannot be a step, or an option does not fit it.
    """

    def __init__(self, body: Body, options: StepOptions) -> None:
        self._body = body
        self._options = options
        self.name = check_name(options.get("name", body.name))
        _check(self.name, body, options)
        update_wrapper(self, body.function, updated=())

    @overload
    def __call__(self, run: Run, /) -> None: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Returned: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add the step to a run's graph; or call the Python function, with any other arguments."""
        if len(args) == 1 and not kwargs and isinstance(args[0], Run):
            return self._draw(args[0])
        drawing = drawn_now()
        if drawing is not None:
            raise InvalidOption(
                f"function {drawing.function}: its body draws the graph, and calls a step with"
                f" nothing but its run: write {self._body.name}(run), on a line of its own"
            )
        return self._body.function(*args, **kwargs)

    def named(self, name: str) -> "Step[P, Returned, Result]":
        """Return the step under another name, to use it a second time in a function."""
        options = self._options.copy()
        options.pop("op", None)
        options["name"] = name
        return Step(self._body, options)

    def __repr__(self) -> str:
        return f"Step({self.name})"

    def __reduce__(self) -> str:
        """Let pickle find the step by its name, as it does functions."""
        return str(getattr(self, "__qualname__", self.name))

    def result(self, item: Item[Any]) -> Result:
        """Return the step's result for an item, as the type that the step returns.

        Raises KeyError when the item has not completed it.
        """
        value: Result = self._result_type.validate_python(item[self.name])
        return value

    def results(self, item: Item[Any]) -> list[Result]:
        """Return the results of a step with `each`, in the order of the elements."""
        kept = elements.results(item, self.name)
        return [self._result_type.validate_python(value) for value in kept]

    @property
    def data(self) -> Any:
        """The type of the data of the items that it takes; `Any` when it is not annotated."""
        return self._body.data

    @cached_property
    def _result_type(self) -> TypeAdapter[Any]:
        result = self._body.result
        if self._body.takes is Takes.BATCH:
            result = Any
        if self._body.takes is Takes.ITEMS:
            result = _without_errors(next(iter(get_args(result)), Any))
        try:
            return TypeAdapter(result)
        except PydanticSchemaGenerationError:
            raise InvalidOption(
                f"step {self.name}: pydantic cannot read its result back as {result}: let it"
                f' return a model, a dataclass or plain values, or read item["{self.name}"]'
            ) from None

    def _draw(self, run: Run) -> None:
        unfit = [kind for kind in run.drawing.data or () if not accepts(self.data, kind)]
        if unfit and ("when" not in self._options or unfit == run.drawing.data):
            kinds = " or ".join(kind.__name__ for kind in unfit)
            expected = getattr(self.data, "__name__", self.data)
            raise InvalidOption(
                f"function {run.drawing.function}: step {self.name} takes Item[{expected}], and the"
                f" data of the function's events is {kinds}: annotate the step with that type, or"
                " start the function with another event"
            )
        return run.add(self.name, self._op, self._options.get("op"))

    def _op(self, name: str) -> OpDefinition:
        """Make the op: its parameters are the batch, and the step's context and resources."""
        others = self._body.others[1 if "each" in self._options else 0 :]
        in_dagster = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in others
            if not _is_context(parameter)
        ]
        contexts = [parameter.name for parameter in others if _is_context(parameter)]

        def compute(context: OpExecutionContext, batch: Batch, **others: Any) -> Batch:
            return self._work(batch, {**others, **dict.fromkeys(contexts, context)})

        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        compute.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("context", positional, annotation=OpExecutionContext),
                inspect.Parameter("batch", positional, annotation=Batch),
                *in_dagster,
            ],
            return_annotation=Batch,
        )
        try:
            definition = batch_op(name, self._body.doc)(compute)
        except DagsterInvalidDefinitionError as error:
            raise InvalidOption(f"step {self.name}: {error}") from None
        unknown = sorted(set(definition.ins) - {"batch"})
        if unknown:
            raise InvalidOption(
                f"step {self.name}: nothing provides its parameter {unknown[0]}: annotate it with"
                " a resource (a ConfigurableResource, or ResourceParam[...]) or"
                " OpExecutionContext; a Config is called config"
            )
        return definition

    def _work(self, batch: Batch, others: Mapping[str, Any]) -> Batch:
        do = partial(self._body.function, **others)
        options: dict[str, Any] = {
            name: value for name, value in self._options.items() if name not in _NAMES
        }
        if self._body.takes is Takes.ITEMS:
            return batch.map_batch(self.name, do, **options)
        if self._body.takes is Takes.BATCH:
            return _batch_of(do(batch), self.name)
        if "each" in options:
            return batch.map_each(self.name, options.pop("each"), do, **options)
        return batch.map(self.name, do, **options)


def _is_context(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is Dagster's context: by its annotation, or by its name without one."""
    annotation = parameter.annotation
    return annotation is OpExecutionContext or (
        annotation is parameter.empty and parameter.name == "context"
    )


def _without_errors(result: Any) -> Any:
    """Return the type of a result without the exceptions, which fail an item and are not kept."""
    if get_origin(result) not in (Union, UnionType):
        return result
    kept = [
        kind
        for kind in get_args(result)
        if not (isinstance(kind, type) and issubclass(kind, BaseException))
    ]
    return Union[tuple(kept)] if kept else Any  # noqa: UP007 (of a list)


class StepDecorator:
    """What `@step(...)` returns: it makes a function a step with these options."""

    def __init__(self, options: StepOptions) -> None:
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[Sequence[Item[Any]], P], Sequence[Result]]
    ) -> Step[Concatenate[Sequence[Item[Any]], P], Sequence[Result], Result]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, Result]]
    ) -> Step[P, Coroutine[Any, Any, Result], Result]: ...
    @overload
    def __call__(self, function: Callable[P, Result]) -> Step[P, Result, Result]: ...
    def __call__(self, function: Callable[..., Any]) -> Step[..., Any, Any]:
        """Make a function a step; raises `InvalidOption` when it cannot be one."""
        options: Any = without_none(self._options)
        return Step(read_body(function), options)


@overload
def step(
    function: Callable[Concatenate[Sequence[Item[Any]], P], Sequence[Result]], /
) -> Step[Concatenate[Sequence[Item[Any]], P], Sequence[Result], Result]: ...
@overload
def step(
    function: Callable[P, Coroutine[Any, Any, Result]], /
) -> Step[P, Coroutine[Any, Any, Result], Result]: ...
@overload
def step(function: Callable[P, Result], /) -> Step[P, Result, Result]: ...
@overload
def step(**options: Unpack[StepOptions]) -> StepDecorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Unpack[StepOptions]) -> Any:
    """Make a Python function a step: `@step`, or `@step(threads=8)` with `StepOptions`.

    Its first parameter says what it takes: `item: Item` for one invocation at a time,
    `items: Sequence[Item]` for all of a run in one call, or `batch: Batch`, which it returns, for
    whatever else a batch can do. Its other parameters are resources, by their annotation, and
    Dagster's context, annotated with `OpExecutionContext`.

    Returns
    -------
    The step. Call it with the `run` in the body of a function, and with an item in a unit test.

    Raises
    ------
    InvalidOption
        The function cannot be a step, or an option does not fit it.
    """
    if isinstance(function, str):
        raise InvalidOption(f"@step({function!r}): give its name as @step(name={function!r})")
    decorator = StepDecorator(options)
    return decorator if function is None else decorator(function)


def _check(name: str, body: Body, options: StepOptions) -> None:
    if body.takes is Takes.RUN:
        raise InvalidOption(
            f"step {name}: a step takes an item, and draws no graph: use @function(...), or call"
            f" {body.name}(run) without a decorator"
        )
    if name == "<lambda>":
        raise InvalidOption(
            "a lambda has no name, and results are kept by the step's name: write it with def, or"
            " give step(name=...)"
        )
    if body.is_generator:
        raise InvalidOption(f"step {name} yields, and a step returns: return a list")
    if body.is_async and body.takes is not Takes.ITEM:
        raise InvalidOption(f"step {name}: an async step takes one item: {Takes.ITEM.value}")
    check_names(f"step {name}", options, StepOptions.__annotations__)
    for option in options:
        if option not in _ALLOWED[body.takes]:
            raise InvalidOption(
                f"step {name}: {option}= is not for a step that takes {body.takes.value}"
            )
    check_kinds(f"step {name}", options, _KINDS)
    _check_numbers(name, body, options)
    op: object = options.get("op", "op")
    if not isinstance(op, str) or not op.isidentifier():
        raise InvalidOption(f"step {name}: op={op!r}: give a name such as 'charge_card'")
    for option, value in options.items():
        if option in _EXAMPLES:
            check_callable(f"step {name}", option, value, f"{option}={_EXAMPLES[option]}")
    if "timeout" in options:
        seconds(options["timeout"], f"step {name}: timeout=", least=1)
    if "each" in options and not (body.others and _is_element(body.others[0])):
        raise InvalidOption(
            f"step {name}: each= gives the step an element as its second parameter: write"
            f" {body.name}(item, element), and resources after it"
        )
    if any(parameter.name == "batch" for parameter in body.others):
        raise InvalidOption(
            f"step {name}: its op has an input called batch: call the parameter something else"
        )


def _is_element(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    is_resource = isinstance(annotation, type) and issubclass(annotation, ConfigurableResource)
    return not is_resource and not _is_context(parameter) and parameter.kind != _KEYWORD_ONLY


def _check_numbers(name: str, body: Body, options: StepOptions) -> None:
    wrong, right = ("threads", "tasks") if body.is_async else ("tasks", "threads")
    if wrong in options:
        kind = "async" if body.is_async else "not async"
        raise InvalidOption(f"step {name} is {kind}: give {right}= in place of {wrong}=")
    for option in ("threads", "tasks", "checkpoint_every", "size"):
        value: object = options.get(option, 1)
        if type(value) is not int or not 1 <= value <= MAX_BATCH_SIZE:
            raise InvalidOption(f"step {name}: {option}={value!r}: give 1 to {MAX_BATCH_SIZE:,}")


def _batch_of(value: object, step: str) -> Batch:
    if isinstance(value, Batch):
        return value
    raise TypeError(f"step {step} returned {type(value).__name__}: return its batch")
