"""Lengths of time as people write them: `90`, `timedelta(minutes=5)`, `"1h30m"`."""

import math
import re
from datetime import timedelta

from runyard.errors import InvalidOption

Duration = float | timedelta | str

YEAR = 366 * 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_LONGEST = 100


def seconds(given: Duration, what: str, *, least: float = 0.0, most: float = YEAR) -> float:
    """Return a length of time in seconds.

    Parameters
    ----------
    given
        Seconds, a timedelta, or text of numbers with units (ms, s, m, h, d, w): `"30s"`, `"1h30m"`.
    what
        How the option is called in an error: `Throttle(period=...)`.
    least, most
        The bounds, in seconds.

    Raises
    ------
    InvalidOption
        It is none of these, or out of its bounds.
    """
    if isinstance(given, timedelta):
        found = given.total_seconds()
    elif isinstance(given, str):
        text = given.replace(" ", "") if len(given) <= _LONGEST else ""
        if not text or _PART.sub("", text):
            raise InvalidOption(
                f"{what}: {quoted(given)} is no length of time; write it as '30s', '5m', '1h30m' or '7d'"
            )
        found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    elif isinstance(given, int | float) and not isinstance(given, bool):
        try:
            found = float(given)
        except OverflowError:  # a whole number that no float can hold
            found = math.inf
    else:
        raise InvalidOption(
            f"{what}: give seconds, a timedelta or text such as '5m', not {type(given).__name__}"
        )
    if not least <= found <= most:
        shown = f"{found:g}" if isinstance(given, int | float) else repr(given)
        raise InvalidOption(f"{what}: {shown} is out of bounds; give {least:g} to {most:g} seconds")
    return found


def quoted(given: str) -> str:
    """A text as an error shows it: in quotes, and of a long one the beginning."""
    return repr(given if len(given) <= _LONGEST else f"{given[:_LONGEST]}...")
