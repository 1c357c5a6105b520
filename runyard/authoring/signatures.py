"""What the signature of a step or a function says: what it takes, and which resources it needs."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from runyard.authoring.run import Run
from runyard.engine.async_steps import is_async
from runyard.engine.batch import Batch
from runyard.engine.items import Item
from runyard.errors import InvalidOption

_BY_NAME = {"item": Item, "items": Sequence[Item], "batch": Batch, "run": Run}
_LISTS = (list, Sequence)
# What people decorate that is no Python function, by the name of its class, and what to do.
_NO_FUNCTIONS = {
    "Step": "is a step already: to use it under another name, write {name}.named(...)",
    "EventFunction": "is a function already: give all its events to one @function(...)",
    "OpDefinition": "is an op: leave @op out",
    "JobDefinition": "is a job: start it with on_event(..., job={name})",
    "staticmethod": "is a static method: write @staticmethod above the other decorator",
    "classmethod": "is a class method: write it outside of the class",
    "method": "is a method: write it outside of the class",
    "type": "is a class: decorate a function written with def",
}


class Takes(Enum):
    """What the first parameter of a body takes."""

    ITEM = "item: Item"
    ITEMS = "items: Sequence[Item]"
    BATCH = "batch: Batch"
    RUN = "run: Run"


@dataclass(frozen=True)
class Body:
    """A Python function as a step or a function takes it.

    Attributes
    ----------
    function
        The Python function.
    takes
        What its first parameter takes.
    data
        The type of the item's data, as annotated: `Any` for an item alone.
    others
        Its other parameters: an element of the item, Dagster's context, resources.
    result
        The annotation of what it returns; `Any` without one.
    """

    function: Callable[..., Any]
    takes: Takes
    data: Any
    others: tuple[inspect.Parameter, ...]
    result: Any

    @property
    def name(self) -> str:
        """The name of the Python function."""
        return self.function.__name__

    @property
    def doc(self) -> str | None:
        """Its docstring."""
        return inspect.getdoc(self.function)

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def` function."""
        return is_async(self.function)

    @property
    def is_generator(self) -> bool:
        """Whether it yields, so that calling it does nothing yet."""
        return inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(
            self.function
        )


def read_body(function: Callable[..., Any]) -> Body:
    """Read the signature of a body; raises `InvalidOption` for one that nothing can call."""
    name = getattr(function, "__name__", repr(function))
    if not inspect.isfunction(function):
        what = _NO_FUNCTIONS.get(
            type(function).__name__, "is not a function: decorate one written with def"
        )
        raise InvalidOption(f"{name} {what.format(name=name)}")
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        raise InvalidOption(
            f"{name}: an annotation cannot be read ({error}): import what it names at the top of"
            " the module, not only for type checking"
        ) from None
    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, inspect.Parameter.empty))
        for parameter in inspect.signature(function).parameters.values()
    ]
    if any(
        parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in parameters
    ):
        raise InvalidOption(f"{name}: write its parameters out, without * and **")
    if not parameters:
        raise InvalidOption(f"{name} takes nothing: give it {_choices()}")
    first, *others = parameters
    if first.kind is first.KEYWORD_ONLY:
        raise InvalidOption(f"{name}: write its first parameter, {first.name}, before the *")
    takes, data = _first(name, first)
    return Body(function, takes, data, tuple(others), hints.get("return", Any))


def _first(name: str, first: inspect.Parameter) -> tuple[Takes, Any]:
    annotation = first.annotation
    if annotation is inspect.Parameter.empty:
        annotation = _BY_NAME.get(first.name)
    if annotation is Run:
        return Takes.RUN, Any
    if annotation is Batch:
        return Takes.BATCH, Any
    if annotation is Item or get_origin(annotation) is Item:
        return Takes.ITEM, _data_of(annotation)
    if get_origin(annotation) in _LISTS or _is_abstract_list(annotation):
        [element] = get_args(annotation) or (None,)
        if element is Item or get_origin(element) is Item:
            return Takes.ITEMS, _data_of(element)
    hint = ""
    if first.name in ("self", "cls"):
        hint = ", so write it outside of the class"
    raise InvalidOption(f"{name}: its first parameter is {first}, and has to be {_choices()}{hint}")


def _is_abstract_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _data_of(annotation: Any) -> Any:
    return next(iter(get_args(annotation)), Any)


def accepts(expected: Any, given: type) -> bool:
    """Return whether items with data of a type may go to a body whose items have `expected`."""
    if expected is Any:
        return True
    if get_origin(expected) in (Union, UnionType):
        return any(accepts(kind, given) for kind in get_args(expected))
    kind = get_origin(expected) or expected
    return issubclass(given, kind) if isinstance(kind, type) else True


def _choices() -> str:
    *most, last = (takes.value for takes in Takes)
    return f"{', '.join(most)} or {last}"
