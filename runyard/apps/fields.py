"""Reads the JSON objects of a registration; what is wrong is said with the field that it is in.

Names of fields are read without regard to case, for the SDKs do not agree on it. Null is as good as
no field, and unknown fields are ignored.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runyard.errors import InvalidOption
from runyard.syntax.durations import quoted
from runyard.syntax.expressions import MAX_LENGTH, Tree, parse_expression

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}


class InvalidField(InvalidOption):
    """A field is wrong; the message begins with its place."""


class Fields:
    """An object of a registration.

    Parameters
    ----------
    raw
        The parsed JSON.
    place
        What it is, and its path: `function shop-hello, triggers[0]`.

    Raises
    ------
    InvalidField
        It is no object.
    """

    def __init__(self, raw: object, place: str) -> None:
        if not isinstance(raw, Mapping):
            raise InvalidField(f"{place}: give an object, not {_kind(raw)}")
        self.place = place
        self._values = {
            str(name).lower(): value for name, value in raw.items() if value is not None
        }

    def at(self, name: str) -> str:
        """Return the place of a field."""
        return f"{self.place}{'.' if ', ' in self.place else ', '}{name}"

    def value(self, name: str) -> Any:
        """Return a field as it is; None without it."""
        return self._values.get(name.lower())

    def text(self, name: str, most: int = 1_000) -> str | None:
        """Return a text; None without one."""
        value = self.value(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise InvalidField(f"{self.at(name)}: give text, not {_kind(value)}")
        if len(value) > most:
            raise InvalidField(
                f"{self.at(name)}: {quoted(value)} has {len(value):,} characters; give no more than"
                f" {most:,}"
            )
        return value

    def needed_text(self, name: str, most: int = 1_000) -> str:
        """Return a text that must be there."""
        text = self.text(name, most)
        if text is None:
            raise InvalidField(f"{self.at(name)}: it is missing")
        return text

    def number(self, name: str) -> int | None:
        """Return a whole number; None without one."""
        value = self.value(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise InvalidField(f"{self.at(name)}: give a whole number, not {_kind(value)}")
        return value

    def needed_number(self, name: str) -> int:
        """Return a whole number that must be there."""
        number = self.number(name)
        if number is None:
            raise InvalidField(f"{self.at(name)}: it is missing")
        return number

    def object(self, name: str) -> "Fields | None":
        """Return an object; None without one."""
        value = self.value(name)
        return None if value is None else Fields(value, self.at(name))

    def objects(self, name: str) -> "list[Fields]":
        """Return a list of objects; one object stands for a list of it."""
        value = self.value(name)
        if value is None:
            return []
        if isinstance(value, Mapping):
            return [Fields(value, self.at(name))]
        if not isinstance(value, list):
            raise InvalidField(f"{self.at(name)}: give a list, not {_kind(value)}")
        return [Fields(each, f"{self.at(name)}[{place}]") for place, each in enumerate(value)]

    def expression(self, name: str) -> tuple[str, Tree] | None:
        """Return an expression, as text and as its tree; None without one."""
        text = self.text(name, MAX_LENGTH)
        if text is None:
            return None
        try:
            return text, parse_expression(text, self.at(name))
        except InvalidOption as error:
            raise InvalidField(str(error)) from None

    @contextmanager
    def option(self, name: str = "") -> Iterator[None]:
        """Name this object, or a field of it, in what a rule raises inside of a `with` block."""
        try:
            yield
        except InvalidField:
            raise
        except InvalidOption as error:
            raise InvalidField(f"{self.at(name) if name else self.place}: {error}") from None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "nothing" if value is None else "a fraction")
