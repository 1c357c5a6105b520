"""Durations as people write them: `90`, `timedelta(minutes=5)`, `"1h30m"`."""

import math
import re
from datetime import timedelta

from runyard.errors import InvalidOption

Duration = float | timedelta | str

YEAR = 366 * 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_MAX_LENGTH = 100


def seconds(duration: Duration, what: str, *, least: float = 0.0, most: float = YEAR) -> float:
    """Return a duration in seconds.

    Parameters
    ----------
    duration
        Seconds, a timedelta, or text of numbers with units (ms, s, m, h, d, w): `"30s"`, `"1h30m"`.
    what
        The name of the option in an error: `Throttle(period=...)`.
    least, most
        The bounds, in seconds.

    Raises
    ------
    InvalidOption
        It is not a duration, or out of bounds.
    """
    if isinstance(duration, timedelta):
        value = duration.total_seconds()
    elif isinstance(duration, str):
        value = _parse(duration, what)
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        try:
            value = float(duration)
        except OverflowError:  # a whole number that no float can hold
            value = math.inf
    else:
        kind = type(duration).__name__
        raise InvalidOption(f"{what}: give seconds, a timedelta or text such as '5m', not {kind}")
    if not least <= value <= most:
        shown = f"{value:g}" if isinstance(duration, int | float) else repr(duration)
        raise InvalidOption(f"{what}: {shown} is out of bounds; give {least:g} to {most:g} seconds")
    return value


def _parse(text: str, what: str) -> float:
    compact = text.replace(" ", "") if len(text) <= _MAX_LENGTH else ""
    if not compact or _PART.sub("", compact):
        raise InvalidOption(
            f"{what}: {quoted(text)} is not a duration; write it as '30s', '5m', '1h30m' or '7d'"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(compact))


def quoted(text: str) -> str:
    """Return a text as an error shows it: in quotes, and cut off when it is long."""
    return repr(text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}...")
