"""Checks of the options of `@step` and `@function`: what is given for them."""

from collections.abc import Collection, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any

from dagster import DagsterInvalidDefinitionError

from runyard.errors import InvalidOption

_PLAIN = {str: "text", int: "a whole number"}
Kinds = Mapping[str, Sequence[type]]


def check_kinds(
    what: str, options: Mapping[str, Any], kinds: Kinds, several: Collection[str] = ()
) -> None:
    """Raise `InvalidOption` for an option of the wrong type.

    `kinds` are the types that each option may have. Those in `several` may be a list as well.
    """
    for option in options.keys() & kinds.keys():
        value, allowed = options[option], tuple(kinds[option])
        is_list = option in several and isinstance(value, list | tuple)
        for part in value if is_list else [value]:
            if not isinstance(part, allowed) or isinstance(part, bool):
                choices = " or ".join(_PLAIN.get(kind, f"{kind.__name__}(...)") for kind in allowed)
                raise InvalidOption(f"{what}: {option}={part!r}: give {choices}")


def check_callable(what: str, option: str, value: object, example: str) -> None:
    """Raise `InvalidOption` for an option that is no plain function of an item."""
    if not callable(value):
        raise InvalidOption(f"{what}: {option}={value!r}: give a function, as in {example}")
    if iscoroutinefunction(value):
        raise InvalidOption(
            f"{what}: {option}= is called for its value, and cannot be async: write it with def"
        )


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given; None stands for none, as in `x if condition else None`."""
    return {name: value for name, value in options.items() if value is not None}


def refused_by_dagster(what: str, error: DagsterInvalidDefinitionError, fix: str) -> InvalidOption:
    """Return the error for what Dagster refuses, with the fix if it refuses the name.

    It keeps some for itself, such as `input` and `config`.
    """
    is_about_the_name = "is not a valid name in Dagster" in str(error)
    return InvalidOption(f"{what}: {error} {fix}" if is_about_the_name else f"{what}: {error}")
