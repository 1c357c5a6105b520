"""The names of options: one that does not exist is told together with the one that was meant."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self

from runyard.errors import InvalidOption


@dataclass(frozen=True)
class NamedOptions:
    """The base of dataclasses of options: one that does not exist raises `InvalidOption`."""

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Check the names; the dataclass itself takes the values."""
        check_names(cls.__name__, options, [each.name for each in fields(cls) if each.init])
        return super().__new__(cls)


def check_names(what: str, options: Collection[str], known: Collection[str]) -> None:
    """Raise `InvalidOption` for an option that does not exist, with the one that was meant."""
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, 1)
            meant = f"did you mean {near[0]}=?" if near else f"there are {', '.join(known)}"
            raise InvalidOption(f"{what} has no option {option}=: {meant}")
