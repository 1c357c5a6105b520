"""Moments as people name them on a command line: `2026-11-24`, `2026-11-24T08:00+01:00`, `tuesday`, `yesterday`, `2h`."""

from datetime import datetime, timedelta

from runyard import clock
from runyard.durations import seconds
from runyard.errors import InvalidOption

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def moment(given: str, what: str) -> datetime:
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
            raise InvalidOption(f"{what} {given!r}: write a date or time (2026-11-24, 2026-11-24T08:00), a weekday, 'yesterday', or how long ago ('2h')") from None
    return found if found.tzinfo is not None else found.astimezone()
