"""Conditions over two events, split into what an index can look up and the rest.

`event` is the invocation's own event, known when it begins to wait; `async` is the one that may
come. In `async.data.order == event.data.order && async.data.total > event.data.limit`, the first
part is a pair: a path in the later event, and what it must be equal to. Waits are found by their
pairs, and the rest is tested with each event that has the right values.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runyard.syntax.expression_values import Failed, value_of
from runyard.syntax.expressions import Tree, roots

# A path in the later event, and a tree over the own one.
Pair = tuple[list[str], Tree]
# What PostgreSQL takes for the position in a list, and what an expression does.
_NUMBER, _POSITION = re.compile(r"\s*[+-]?[0-9]+"), re.compile(r"[0-9]{1,9}")


def split(tree: Tree) -> tuple[list[Pair], Tree | None]:
    """Return the pairs of a condition, and the condition that is left; None for none."""
    parts = _conjuncts(tree)
    pairs: list[Pair] = []
    rest: list[Tree] = []
    for part in parts:
        pair = _pair(part)
        if pair is None:
            rest.append(part)
        else:
            pairs.append(pair)
    if len(rest) == 1 and len(parts) > 1:
        # A part of a conjunction may have any value; a condition has to be true.
        rest.append(["lit", True])
    return pairs, conjunction(rest)


def conjunction(trees: Sequence[Tree]) -> Tree | None:
    """Return one condition of several, all of which have to be met; None for none."""
    joined: Tree | None = None
    for tree in trees:
        joined = tree if joined is None else ["and", joined, tree]
    return joined


def bound(tree: Tree, own: Mapping[str, Any]) -> Tree:
    """Return a condition in which the values of the own event have taken the place of its paths."""
    if tree[0] == "path":
        return ["lit", value_of(tree, {"event": own})] if tree[1][0] == "event" else tree
    if tree[0] == "lit":
        return tree
    return [_bound_operand(operand, own) for operand in tree]


def _bound_operand(operand: Any, own: Mapping[str, Any]) -> Any:
    if not isinstance(operand, list) or not operand:
        return operand
    if isinstance(operand[0], list):  # the elements of a list
        return [bound(tree, own) for tree in operand]
    return bound(operand, own)


def terms(
    tree: Tree, own: Mapping[str, Any]
) -> tuple[list[list[str]], list[Any], Tree | None] | None:
    """Return what a condition comes to for an own event, or None if nothing can meet it.

    Returns paths in the later event, the values that it must have there, and the rest of the
    condition. A value that is null, or a list or an object, is left to the rest: to the index, null
    is no value, and 1 and 1.0 inside of a list are not the same.
    """
    pairs, rest = split(tree)
    paths: list[list[str]] = []
    values: list[Any] = []
    others = [] if rest is None else [bound(rest, own)]
    for path, own_tree in pairs:
        try:
            value = value_of(own_tree, {"event": own})
        except Failed:
            return None
        if value is None or isinstance(value, list | dict):
            others.append(["==", ["path", ["async", *path]], ["lit", value]])
        else:
            paths.append(path)
            values.append(value)
    return paths, values, conjunction(others)


def _conjuncts(tree: Tree) -> list[Tree]:
    parts: list[Tree] = []
    left = [tree]
    while left:
        part = left.pop()
        if part[0] == "and":
            left += [part[2], part[1]]
        else:
            parts.append(part)
    return parts


def _pair(tree: Tree) -> Pair | None:
    if tree[0] != "==":
        return None
    for one, other in ((tree[1], tree[2]), (tree[2], tree[1])):
        if one[0] == "path" and one[1][0] == "async" and "async" not in roots(other):
            path = one[1][1:]
            return (path, other) if path and all(map(_is_plain, path)) else None
    return None


def _is_plain(name: str) -> bool:
    return not _NUMBER.fullmatch(name) or bool(_POSITION.fullmatch(name))
