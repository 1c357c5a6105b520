"""Moments as people name them on a command line: `2026-11-24`, `2026-11-24T08:00+01:00`, `tuesday`, `yesterday`, `2h`."""

from datetime import datetime, timedelta

from runyard import clock
from runyard.errors import InvalidOption
from runyard.syntax.durations import quoted, seconds

# Those that have another day before and behind them, in every zone.
_FIRST_YEAR, _LAST_YEAR = 2, 9998
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse_time(given: str, what: str) -> datetime:
    """Return the moment that a text names, in the zone of this machine where it names none.

    A weekday is the last one before today, at midnight; a length of time is that long ago. Raises `InvalidOption`.
    """
    now = clock.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    word = given.strip().lower()
    if word in _WEEKDAYS:
        return midnight - timedelta(days=(now.weekday() - _WEEKDAYS.index(word) - 1) % 7 + 1)
    if word in ("now", "today", "yesterday"):
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[word]
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        try:
            return now - timedelta(seconds=seconds(word, what))
        except InvalidOption:
            raise InvalidOption(
                f"{what} {quoted(given)}: write a date or time (2026-11-24, 2026-11-24T08:00), a weekday, 'yesterday', or how long ago ('2h')"
            ) from None
    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise InvalidOption(
            f"{what} {quoted(given)}: give a year from {_FIRST_YEAR:04} to {_LAST_YEAR}"
        )
    return found if found.tzinfo is not None else found.astimezone()
