"""Makes what user code says fit to be kept and shown: error messages, tracebacks, progress.

PostgreSQL keeps neither the character NUL nor half a surrogate pair, an exception's `str()` may fail or give a text of any length, and any of it may
hold a secret. One such text must never fail the statement that carries it, for the same statement carries what others have done.
"""

import traceback

from runyard.errors import interrupts
from runyard.text.redaction import redact
from runyard.text.storable import storable

MAX_MESSAGE = 10_000
_MOST_LINES = 40
_LONGEST_LINE = 1_000
_MOST_TRACE = 200_000
# Beside a cut there may be a part of a secret, which is not known as one.
_MARGIN = 4_096


def fit(text: str, most: int = MAX_MESSAGE) -> str:
    """The text without secrets and without what PostgreSQL cannot keep, `most` characters of it."""
    if len(text) <= most + _MARGIN:
        whole = storable(redact(text))
        return whole if len(whole) <= most else f"{whole[:most]} ..."
    return f"{storable(redact(text[: most + _MARGIN])[:-_MARGIN])[:most]} ..."


def message_of(error: BaseException) -> str:
    """What an error says, fit to be kept; what is wrong with its `str()` where that fails."""
    try:
        text = str(error)
    except interrupts():
        raise
    except BaseException as failed:
        text = f"(its text cannot be had: str() of it raises {type(failed).__name__})"
    return fit(text)


def type_of(error: BaseException) -> str:
    """The name of an error's type, fit to be kept."""
    return storable(type(error).__name__)[:_LONGEST_LINE]


def trace_of(error: BaseException) -> str:
    """The last lines of an error's traceback with its causes, fit to be kept."""
    try:
        text = "".join(traceback.format_exception(error))
    except interrupts():
        raise
    except BaseException:
        text = "".join(traceback.format_tb(error.__traceback__))
    clean = (
        redact(text)
        if len(text) <= _MOST_TRACE
        else redact(text[-_MOST_TRACE - _MARGIN :])[_MARGIN:]
    )
    lines = storable(clean).splitlines()[-_MOST_LINES:]
    return "\n".join(
        line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..." for line in lines
    )
