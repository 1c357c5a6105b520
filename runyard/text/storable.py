"""What PostgreSQL can keep in a text or in JSON: all but the character NUL and halves of surrogate pairs.

Light to import: whoever sends events needs it.
"""

import math
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

_UNFIT = re.compile("[\x00\ud800-\udfff]")
_LONGEST_NAME = 200


def storable(text: str) -> str:
    """The text with U+FFFD for what PostgreSQL cannot keep; two halves of a surrogate pair become the character that they stand for."""
    if not _UNFIT.search(text):
        return text
    return (
        text.replace("\0", "\ufffd")
        .encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
    )


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can keep the text as it is."""
    return not _UNFIT.search(text)


def make_storable(value: Any) -> Any:
    """Parsed JSON with all its texts and keys `storable`; lists and objects are changed in place.

    Level by level, so that nothing is nested too deep for it.
    """
    top = [value]
    open_ones: list[Any] = [top]
    while open_ones:
        found = open_ones.pop()
        if isinstance(found, dict):
            if not all(map(is_storable, found)):
                members = [(storable(key), child) for key, child in found.items()]
                found.clear()
                found.update(members)
            children: list[tuple[Any, Any]] = list(found.items())
        else:
            children = list(enumerate(found))
        for place, child in children:
            if isinstance(child, str):
                found[place] = storable(child)
            elif isinstance(child, dict | list):
                open_ones.append(child)
    return top[0]


def path_of_unstorable(value: object, path: str) -> str:
    """The path of the first text, key or number in a value that JSON in PostgreSQL cannot hold; `path`, where the value is, if there is none."""
    open_ones = deque([(path, value)])
    while open_ones:
        at, found = open_ones.popleft()
        if isinstance(found, str) and not is_storable(found):
            return at
        if isinstance(found, float) and not math.isfinite(found):
            return at
        if isinstance(found, Mapping):
            members = [
                (storable(str(key))[:_LONGEST_NAME], key, child) for key, child in found.items()
            ]
        elif isinstance(found, list | tuple):
            members = [(str(position), "", child) for position, child in enumerate(found)]
        else:
            continue
        for name, key, child in members:
            if isinstance(key, str) and not is_storable(key):
                return f"{at}.{name}"
            open_ones.append((f"{at}.{name}", child))
    return path
