"""What an expression over events comes to, in Python. `runyard.cel_v1` is the same in SQL.

Inngest's server is more lenient than CEL, and so are these rules:

- A missing path is null. `null == null`, null differs from every value, and is less than each.
- `&&`, `||`, `!` and `?:` take any value, and judge it as JavaScript does: null, false, 0 and ""
  are false. `||` returns the first value that is true, or the last one.
- Text plus a number is text; null plus a value is that value.
- `size` of null is 0; every other function of null is false.
- What has no meaning (`1 - "a"`, `3 < "x"`) fails. `||` and `&&` do not fail when the other side
  decides; a condition that fails, or is no boolean, is not met.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from runyard.syntax.expressions import Tree

_KINDS: tuple[tuple[type, ...], ...] = ((bool,), (int, float), (str,), (list,), (dict,))
_WRITTEN_NUMBER = re.compile(
    r"[ \t\n\r\f\v]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,2})?[ \t\n\r\f\v]*"
)
_LONGEST_NUMBER = 100


class Failed(Exception):
    """An expression has no value."""


def value_of(tree: Tree, scope: Mapping[str, Any]) -> Any:
    """Return what a tree comes to, as JSON.

    Parameters
    ----------
    tree
        As `parse_expression` returns it.
    scope
        The events by their roots: `event`, and `async` where there is a second one.

    Raises
    ------
    Failed
        It has no value.
    """
    try:
        return _Evaluation(scope).value(tree)
    except RecursionError:
        raise Failed from None


def is_met(tree: Tree, scope: Mapping[str, Any]) -> bool:
    """Return whether a condition is met: whether it comes to true."""
    try:
        return value_of(tree, scope) is True
    except Failed:
        return False


def is_true(value: Any) -> bool:
    """Return whether a value counts as true in a condition, as in JavaScript."""
    return not (
        value is None or value is False or value == "" or (_is_number(value) and value == 0)
    )


class _Evaluation:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        self._variables: dict[str, Any] = {}

    def value(self, tree: Tree) -> Any:
        operator, *operands = tree
        special = _SPECIAL.get(operator)
        if special is not None:
            return special(self, *operands)
        return _PLAIN[operator](*(self.value(operand) for operand in operands))

    def _path(self, names: Sequence[str]) -> Any:
        value: Any = self._scope
        for name in names:
            value = _get(value, name)
        return value

    def _or(self, left: Tree, right: Tree) -> Any:
        try:
            first = self.value(left)
        except Failed:
            second = self.value(right)
            if is_true(second):
                return second
            raise
        return first if is_true(first) else self.value(right)

    def _and(self, left: Tree, right: Tree) -> bool:
        try:
            if not is_true(self.value(left)):
                return False
        except Failed:
            if not is_true(self.value(right)):
                return False
            raise
        return is_true(self.value(right))

    def _if(self, condition: Tree, then: Tree, otherwise: Tree) -> Any:
        return self.value(then if is_true(self.value(condition)) else otherwise)

    def _each(self, elements: Tree, variable: str, body: Tree) -> list[tuple[Any, Any]]:
        """The elements of a list, each with what the body comes to for it."""
        values = self.value(elements)
        if values is None:
            return []
        if not isinstance(values, list):
            raise Failed
        pairs = []
        for value in values:
            self._variables[variable] = value
            pairs.append((value, self.value(body)))
        return pairs

    def _true_ones(self, elements: Tree, variable: str, body: Tree) -> list[Any]:
        return [value for value, result in self._each(elements, variable, body) if is_true(result)]

    def _all(self, elements: Tree, variable: str, body: Tree) -> bool:
        return all(is_true(result) for _, result in self._each(elements, variable, body))


_SPECIAL: dict[str, Callable[..., Any]] = {
    "lit": lambda _, value: value,
    "var": lambda self, name: self._variables.get(name),
    "path": lambda self, names: self._path(names),
    "list": lambda self, trees: [self.value(tree) for tree in trees],
    "or": lambda self, left, right: self._or(left, right),
    "and": lambda self, left, right: self._and(left, right),
    "if": lambda self, *trees: self._if(*trees),
    "call": lambda self, name, *trees: _call(name, *(self.value(tree) for tree in trees)),
    "all": lambda self, *parts: self._all(*parts),
    "exists": lambda self, *parts: bool(self._true_ones(*parts)),
    "exists_one": lambda self, *parts: len(self._true_ones(*parts)) == 1,
    "filter": lambda self, *parts: self._true_ones(*parts),
    "map": lambda self, *parts: [result for _, result in self._each(*parts)],
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _get(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key) if isinstance(key, str) else None
    if isinstance(value, list):
        if isinstance(key, str) and key.isdecimal() and len(key) < 10:
            key = int(key)
        if _is_number(key) and key == int(key) and 0 <= key < len(value):
            return value[int(key)]
    return None


def _kind(value: Any) -> int:
    for number, types in enumerate(_KINDS):
        if isinstance(value, types):
            return number
    return len(_KINDS)


def _equal(left: Any, right: Any) -> bool:
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def _order(left: Any, right: Any) -> int:
    """-1, 0 or 1; null is less than anything."""
    if left is None or right is None:
        return (left is not None) - (right is not None)
    comparable = (_is_number(left) and _is_number(right)) or (
        type(left) is type(right) and isinstance(left, str | bool)
    )
    if not comparable:
        raise Failed
    return int(left > right) - int(left < right)


def _add(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    if _is_number(left) and _is_number(right):
        return _number(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return [*left, *right]
    if isinstance(left, str) or isinstance(right, str):
        return _text(left) + _text(right)
    raise Failed


def _calculate(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def calculated(left: Any, right: Any) -> Any:
        if not (_is_number(left) and _is_number(right)):
            raise Failed
        try:
            return _number(compute(left, right))
        except (ArithmeticError, ValueError):
            raise Failed from None

    return calculated


def _number(value: Any) -> Any:
    """A number as JSON keeps it: one without a fraction is whole."""
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise Failed
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
    return value


def _remainder(left: Any, right: Any) -> Any:
    if left != int(left) or right != int(right):
        raise Failed
    rest = abs(int(left)) % abs(int(right))
    return -rest if left < 0 else rest


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if _is_number(value):
        return format(Decimal(repr(_number(value))), "f")
    raise Failed


def _contains(value: Any, collection: Any) -> bool:
    if collection is None:
        return False
    if isinstance(collection, list):
        return any(_equal(value, each) for each in collection)
    if isinstance(collection, dict):
        return isinstance(value, str) and value in collection
    raise Failed


def _size(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str | list | dict):
        return len(value)
    raise Failed


def _to_number(value: Any, whole: bool) -> Any:
    if isinstance(value, str):
        if not _WRITTEN_NUMBER.fullmatch(value) or len(value) > _LONGEST_NUMBER:
            raise Failed
        value = Decimal(value.strip())
    elif not _is_number(value):
        raise Failed
    if value != value or abs(value) > 2**63:
        raise Failed
    return int(value) if whole or value == int(value) else float(value)


def _call(name: str, *values: Any) -> Any:
    if name == "size":
        return _size(values[0])
    if any(value is None for value in values):
        return False
    if name in ("contains", "startsWith", "endsWith"):
        if name == "contains" and isinstance(values[0], list):
            return _contains(values[1], values[0])
        if not all(isinstance(value, str) for value in values):
            raise Failed
        whole, part = values
        return {
            "contains": part in whole,
            "startsWith": whole.startswith(part),
            "endsWith": whole.endswith(part),
        }[name]
    if name in ("lowercase", "uppercase"):
        if not isinstance(values[0], str):
            raise Failed
        return values[0].lower() if name == "lowercase" else values[0].upper()
    if name == "string":
        return _text(values[0])
    return _to_number(values[0], whole=name in ("int", "uint"))


_PLAIN: dict[str, Callable[..., Any]] = {
    "get": _get,
    "not": lambda value: not is_true(value),
    "neg": lambda value: _calculate(lambda left, right: left - right)(0, value),
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": lambda left, right: _order(left, right) < 0,
    "<=": lambda left, right: _order(left, right) <= 0,
    ">": lambda left, right: _order(left, right) > 0,
    ">=": lambda left, right: _order(left, right) >= 0,
    "in": _contains,
    "+": _add,
    "-": _calculate(lambda left, right: left - right),
    "*": _calculate(lambda left, right: left * right),
    "/": _calculate(lambda left, right: left / right),
    "%": _calculate(_remainder),
}
