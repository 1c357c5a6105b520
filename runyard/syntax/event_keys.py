"""Keys of flow control: a path into the event (`data.tenant`), or an expression over it.

In the database a path is the list of its parts, and an expression `["cel", tree, text]`;
`["unless false", path]` is a path whose value false counts as none, and `["unless met", tree]` a
value that only events have which do not meet a condition (see `runyard.keys_v1`).
"""

import re
from collections.abc import Sequence
from typing import Any

from runyard.errors import InvalidOption
from runyard.syntax.expressions import Tree, parse_expression, roots
from runyard.syntax.jsonpath import parse_path

Key = list[Any]
_LOOKS_LIKE_A_PATH = re.compile(r"[A-Za-z0-9_.$-]*")


def parse_key(text: str, what: str) -> Key:
    """Return a key as it is stored.

    Raises `InvalidOption`, in which `what` names the option, for what is neither a path into the
    event nor an expression over it.
    """
    try:
        return list(parse_path(text, what))
    except InvalidOption as no_path:
        if not isinstance(text, str) or _LOOKS_LIKE_A_PATH.fullmatch(text):
            raise
        try:
            tree = event_expression(text, "as an expression")
        except InvalidOption as no_expression:
            raise InvalidOption(f"{no_path}; {no_expression}") from None
    return ["cel", tree, text]


def unless_false(key: Key) -> Key:
    """Return a key that an event does not have if its value is false."""
    if not is_expression(key):
        return ["unless false", key]
    _, tree, text = key
    is_false = ["==", tree, ["lit", False]]
    return ["cel", ["if", is_false, ["lit", None], tree], text]


def unless_met(text: str) -> Key:
    """Return a key that an event does not have if it meets a condition."""
    return ["unless met", event_expression(text, "the condition")]


def is_expression(key: Sequence[Any]) -> bool:
    """Return whether a key as it is stored is an expression."""
    return len(key) > 1 and key[0] == "cel" and isinstance(key[1], list)


def text_of(key: Sequence[Any]) -> str:
    """Return a key that is stored as it was written, without `event.` before a path."""
    if is_expression(key):
        return str(key[2])
    return ".".join(key[1] if len(key) > 1 and isinstance(key[1], list) else key)


def event_expression(text: str, what: str) -> Tree:
    """Return the tree of an expression over one event; raises `InvalidOption`."""
    tree = parse_expression(text, what)
    if "async" in roots(tree):
        raise InvalidOption(
            f"{what}: there is only one event here, which is called event; async is the later one "
            "of a wait or a cancellation"
        )
    return tree
