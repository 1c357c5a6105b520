"""What starts a function: events, by name or wildcard and with a filter; or a cron schedule."""

from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from runyard.errors import InvalidOption
from runyard.events import MAX_NAME
from runyard.functions.option_names import NamedOptions
from runyard.syntax.durations import Duration, seconds
from runyard.syntax.event_keys import event_expression
from runyard.syntax.expressions import Tree
from runyard.syntax.jsonpath import check_filter

_MOST_JITTER = 3_600.0


def matches(pattern: str, event: str) -> bool:
    """Return whether a pattern matches an event's name.

    `*` stands for any number of any characters, like `%` in SQL's LIKE.
    """
    first, *others = pattern.split("*")
    if not others:
        return event == pattern
    *between, last = others
    at, end = len(first), len(event) - len(last)
    if at > end or not event.startswith(first) or not event.endswith(last):
        return False
    for part in between:
        # The first occurrence leaves most room for the parts after it; no other has to be tried.
        at = event.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


@dataclass(frozen=True)
class Trigger(NamedOptions):
    """An event that starts a function.

    Parameters
    ----------
    event
        Its name, or a pattern in which `*` stands for any characters: `shop/*`. A pattern matches
        internal events only when it begins with `runyard/` (or `inngest/`) itself.
    filter
        SQL/JSON path over the event as `$`: `$.data.total > 100`. PostgreSQL evaluates it when the
        event is inserted: a condition has to hold, and another path has to yield an item.
    condition
        An expression over the event: `event.data.total > 100`. PostgreSQL evaluates it too.
    """

    event: str
    filter: str | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, str) or not 1 <= len(self.event) <= MAX_NAME:
            raise InvalidOption(
                f"Trigger(event={self.event!r}): give an event name of 1 to {MAX_NAME} characters"
            )
        if self.filter is not None:
            check_filter(self.filter, f"the filter of {self.event}")
        _ = self.tree

    @property
    def wildcard(self) -> bool:
        """Whether the event is a pattern."""
        return "*" in self.event

    @property
    def pattern(self) -> str:
        """The name, or the pattern as SQL's LIKE takes it."""
        if not self.wildcard:
            return self.event
        escaped = self.event.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return escaped.replace("*", "%")

    @property
    def tree(self) -> Tree | None:
        """The condition, as a tree."""
        if self.condition is None:
            return None
        return event_expression(self.condition, f"the condition of {self.event}")

    @property
    def unconditional(self) -> bool:
        """Whether its name alone decides."""
        return not self.wildcard and self.filter is None and self.condition is None

    def __str__(self) -> str:
        tests = " and ".join(test for test in (self.filter, self.condition) if test)
        return f"{self.event} if {tests}" if tests else self.event


@dataclass(frozen=True)
class Cron(NamedOptions):
    """A cron schedule that starts a function, as a Dagster schedule.

    Parameters
    ----------
    schedule
        A cron expression (`0 6 * * 1-5`), or several separated by `;`.
    timezone
        The time zone of the expression: `Europe/Zurich`.
    overlap
        What to do when the previous invocation has not ended: `skip` this one, `queue` it behind
        the other, or `allow` both.
    catch_up
        Which of the times that were missed while the daemon was down to make up for: `none`, the
        `last`, or `all` (up to Dagster's `max_catchup_runs`).
    grace
        A time that is noticed later than this counts as missed.
    jitter
        How much later than its time an invocation may begin, up to an hour: by a part of it that is
        different for each time, so that what is due at the same time does not begin at once.
    """

    schedule: str
    timezone: str = "UTC"
    overlap: Literal["skip", "queue", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    grace: Duration = 120.0
    jitter: Duration = 0.0

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ValueError, OSError, KeyError):
            raise InvalidOption(
                f"Cron(timezone={self.timezone!r}): not a time zone; write it as Europe/Zurich"
            ) from None
        for name, value, allowed in (
            ("overlap", self.overlap, ("skip", "queue", "allow")),
            ("catch_up", self.catch_up, ("none", "last", "all")),
        ):
            if value not in allowed:
                raise InvalidOption(f"Cron({name}={value!r}): give {', '.join(allowed)}")
        seconds(self.grace, "Cron(grace=...)", least=1)
        seconds(self.jitter, "Cron(jitter=...)", most=_MOST_JITTER)

    @property
    def parts(self) -> list[str]:
        """The cron expressions."""
        return [part.strip() for part in self.schedule.split(";")]
