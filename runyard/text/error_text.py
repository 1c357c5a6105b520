"""Makes text from user code safe to store and to show: error messages, tracebacks, progress.

PostgreSQL stores neither the character NUL nor half of a surrogate pair; an exception's `str()` may
fail or return text of any length; and any text may contain a secret. Such a text must never fail
the statement that carries it, as the same statement carries the results of other invocations.
"""

import sys
import traceback

from runyard.errors import interrupts
from runyard.text.redaction import Redactor, redact
from runyard.text.safe_cuts import MARGIN
from runyard.text.storable import storable

MAX_MESSAGE = 10_000
_MAX_LINES = 40
_MAX_LINE = 1_000
_MAX_TRACE = 200_000


def fit(text: str, most: int = MAX_MESSAGE, clean: Redactor = redact) -> str:
    """Return up to `most` characters of a text, without secrets and storable.

    `MARGIN` more characters are redacted, and then dropped: half a secret is not recognised.

    For many texts, `clean` is a `redactor()` made once.
    """
    if len(text) <= most + MARGIN:
        whole = storable(clean(text))
        return whole if len(whole) <= most else f"{whole[:most]} ..."
    return f"{storable(clean(text[: most + MARGIN])[:-MARGIN])[:most]} ..."


def message_of(error: BaseException) -> str:
    """Return an error's message, safe to store, or that its `str()` fails."""
    try:
        text = str(error)
    except interrupts():
        raise
    except BaseException as failed:
        text = f"(no message: str() of the error raises {type(failed).__name__})"
    return fit(text)


def why_not_json(error: Exception) -> str:
    """Return why a text is not JSON that Python reads, in words for its author."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # Python's own words name a function that the author cannot call.
    if isinstance(error, ValueError) and str(error).startswith("Exceeds the limit"):
        return f"a whole number has more than {sys.get_int_max_str_digits()} digits"
    return message_of(error)


def type_of(error: BaseException) -> str:
    """Return the name of an error's type, safe to store."""
    return storable(type(error).__name__)[:_MAX_LINE]


def trace_of(error: BaseException) -> str:
    """Return the last lines of an error's traceback and its causes, safe to store."""
    try:
        text = "".join(traceback.format_exception(error))
    except interrupts():
        raise
    except BaseException:
        text = "".join(traceback.format_tb(error.__traceback__))
    return shortened_trace(text)


def shortened_trace(text: str) -> str:
    """Return the last lines of a traceback as Python prints it, safe to store."""
    if len(text) <= _MAX_TRACE:
        clean = redact(text)
    else:
        clean = redact(text[-_MAX_TRACE - MARGIN :])[MARGIN:]
    lines = storable(clean).splitlines()[-_MAX_LINES:]
    return "\n".join(map(_shortened, lines))


def _shortened(line: str) -> str:
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} ..."
