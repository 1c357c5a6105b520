"""What starts a function: an event by its name, a family of events by a wildcard, with a filter; or the clock."""

from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from runyard.errors import InvalidOption
from runyard.events import MAX_NAME
from runyard.syntax.durations import Duration, seconds
from runyard.syntax.jsonpath import check_filter


def matches(pattern: str, event: str) -> bool:
    """Whether an event's name is this one, or one of those that a pattern stands for (`*`: any characters, as many as there are, as SQL's LIKE has it)."""
    first, *others = pattern.split("*")
    if not others:
        return event == pattern
    *between, last = others
    at, end = len(first), len(event) - len(last)
    if at > end or not event.startswith(first) or not event.endswith(last):
        return False
    for part in between:
        # The first place where a part can be leaves most for those behind it: no other one has to be tried.
        at = event.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


@dataclass(frozen=True)
class Trigger:
    """An event that starts a function.

    Parameters
    ----------
    event
        Its name, or a pattern in which `*` stands for any characters: `shop/*`. A pattern meets internal events (`runyard/...`) only where it
        names them.
    filter
        SQL/JSON path over the event as `$`: `$.data.total > 100`. PostgreSQL evaluates it when the event comes; one that gives neither true nor
        an item does not start the function.
    """

    event: str
    filter: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, str) or not 1 <= len(self.event) <= MAX_NAME:
            raise InvalidOption(
                f"Trigger(event={self.event!r}): give an event name of 1 to {MAX_NAME} characters"
            )
        if self.filter is not None:
            check_filter(self.filter, f"the filter of {self.event}")

    @property
    def wildcard(self) -> bool:
        """Whether it stands for several names."""
        return "*" in self.event

    @property
    def pattern(self) -> str:
        """The name, or the pattern as SQL's LIKE takes it."""
        if not self.wildcard:
            return self.event
        return (
            self.event.replace("\\", "\\\\")
            .replace("%", "\\%")
            .replace("_", "\\_")
            .replace("*", "%")
        )

    def __str__(self) -> str:
        return f"{self.event} if {self.filter}" if self.filter else self.event


@dataclass(frozen=True)
class Cron:
    """A time-table that starts a function, as a Dagster schedule.

    Parameters
    ----------
    schedule
        A cron expression (`0 6 * * 1-5`), or several times separated by `;`.
    timezone
        The zone in which it is read: `Europe/Zurich`.
    overlap
        What happens at a time when the invocation of an earlier time is not final: `skip` this one, `queue` it behind the other, or `allow` both.
    catch_up
        What happens to times that passed while the daemon was down: `none` of them is made up for, the `last` one, or `all` (as many as Dagster
        looks back, its `max_catchup_runs`).
    grace
        A time that is noticed later than this was missed, and is a matter of `catch_up`.
    """

    schedule: str
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    grace: Duration = 120.0

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ValueError, OSError, KeyError):
            raise InvalidOption(
                f"Cron(timezone={self.timezone!r}): no time zone; write it as Europe/Zurich"
            ) from None
        for name, value, allowed in (
            ("overlap", self.overlap, ("skip", "queue", "allow")),
            ("catch_up", self.catch_up, ("none", "last", "all")),
        ):
            if value not in allowed:
                raise InvalidOption(f"Cron({name}={value!r}): give {', '.join(allowed)}")
        seconds(self.grace, "Cron(grace=...)", least=1)

    @property
    def parts(self) -> list[str]:
        """The cron expressions."""
        return [part.strip() for part in self.schedule.split(";")]
