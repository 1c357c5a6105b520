"""What PostgreSQL can store in text and JSON: not the character NUL, nor half a surrogate pair.

This module is cheap to import, as every process that sends events does.
"""

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_NAME = 200


def storable(text: str) -> str:
    """Return the text with U+FFFD in place of what PostgreSQL cannot store.

    The two halves of a surrogate pair become the character that they stand for.
    """
    if not _UNSTORABLE.search(text):
        return text
    return (
        text.replace("\0", "\ufffd")
        .encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
    )


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store the text as it is."""
    return not _UNSTORABLE.search(text)


def make_storable(value: Any) -> Any:
    """Return parsed JSON with all texts and keys `storable`; lists and objects change in place.

    There is no recursion, so that no value is nested too deep.
    """
    root = [value]
    pending: list[Any] = [root]
    while pending:
        parent = pending.pop()
        children: list[tuple[Any, Any]]
        if isinstance(parent, dict):
            if not all(map(is_storable, parent)):
                members = [(storable(key), child) for key, child in parent.items()]
                parent.clear()
                parent.update(members)
            children = list(parent.items())
        else:
            children = list(enumerate(parent))
        for key, child in children:
            if isinstance(child, str):
                parent[key] = storable(child)
            elif isinstance(child, dict | list):
                pending.append(child)
    return root[0]


def path_of_unstorable(value: object, path: str) -> str:
    """Return the path of the first text, key or number that JSON in PostgreSQL cannot hold.

    `path` is the path of the value itself, and is returned when there is nothing of the kind.
    """
    pending = deque([(path, value)])
    while pending:
        at, current = pending.popleft()
        if isinstance(current, str) and not is_storable(current):
            return at
        if isinstance(current, float) and not math.isfinite(current):
            return at
        for name, key, child in _members(current):
            if not is_storable(key):
                return f"{at}.{name}"
            pending.append((f"{at}.{name}", child))
    return path


def _members(value: object) -> Iterator[tuple[str, str, object]]:
    """Yield the members of an object or an array: the name in a path, the key, the value."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield storable(str(key))[:_MAX_NAME], key if isinstance(key, str) else "", child
    elif isinstance(value, list | tuple):
        for position, child in enumerate(value):
            yield str(position), "", child
