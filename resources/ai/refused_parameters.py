"""Which parameters each model rejects, learnt from its errors and remembered by the process.

OpenAI's models differ in the parameters that they accept through one API, and compatible servers
differ more. A rejected request costs nothing, so the answer is the best source.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

_MOST_MODELS = 256
_STATUSES = (400, 422)
_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_WORDS = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|unavailable|deprecated"
    r"|not permitted|not allowed|extra",
    re.IGNORECASE,
)
_READ = 2000  # characters of a message


class RefusedParameters:
    """Rejected parameters by server and model; the least recently used model is dropped first."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, server: str, model: str) -> frozenset[str]:
        """The parameters that this model is known to reject."""
        with self._lock:
            if (server, model) in self._found:
                self._found.move_to_end((server, model))
            return self._found.get((server, model), frozenset())

    def add(self, server: str, model: str, parameter: str) -> None:
        """Remember a rejected parameter."""
        with self._lock:
            known = self._found.get((server, model), frozenset())
            self._found[server, model] = known | {parameter}
            self._found.move_to_end((server, model))
            while len(self._found) > _MOST_MODELS:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._found.clear()


# Shared by the whole process.
learnt = RefusedParameters()


def refused_parameter(error: Any, sent: Collection[str]) -> str | None:
    """Which of the parameters that were sent this error of the `openai` package rejects, if any.

    OpenAI names it in `param`, with a code; other servers only in their message.
    """
    if error.status_code not in _STATUSES:
        return None
    named = re.split(r"[.\[]", str(error.param or ""), maxsplit=1)[0]
    if error.code in _CODES and named in sent:
        return named
    # Where the error does not have OpenAI's form, its message is only in the body.
    text = f"{error} {error.body}"[:_READ]
    if not _WORDS.search(text):
        return None
    return next((name for name in sorted(sent) if re.search(rf"\b{name}\b", text)), None)
