"""Times as people write them: `2026-11-24`, `2026-11-24T08:00+01:00`, `tuesday`, `2h`."""

from datetime import datetime, timedelta

from runyard import clock
from runyard.errors import InvalidOption
from runyard.syntax.durations import quoted, seconds

# The years whose every day has a day before and after it, in every time zone.
_FIRST_YEAR, _LAST_YEAR = 2, 9998
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse_time(text: str, what: str) -> datetime:
    """Return the time that a text names, in this machine's time zone unless it names one.

    A date or time is ISO 8601. `now`, `today` and `yesterday` are understood; a weekday is the last
    one before today, at midnight; a duration is that long ago. `what` names the option in an error.
    Raises `InvalidOption`.
    """
    now = clock.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    word = text.strip().lower()
    if word in _WEEKDAYS:
        return midnight - timedelta(days=(now.weekday() - _WEEKDAYS.index(word) - 1) % 7 + 1)
    if word in ("now", "today", "yesterday"):
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[word]
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - timedelta(seconds=seconds(word, what))
        except InvalidOption:
            raise InvalidOption(
                f"{what} {quoted(text)}: write a date or time (2026-11-24, 2026-11-24T08:00), a "
                "weekday, 'yesterday', or how long ago ('2h')"
            ) from None
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        years = f"{_FIRST_YEAR:04} to {_LAST_YEAR}"
        raise InvalidOption(f"{what} {quoted(text)}: give a year from {years}")
    return time if time.tzinfo is not None else time.astimezone()
