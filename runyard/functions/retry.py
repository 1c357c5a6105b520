"""Retry rules: when a failed step is tried again, by function, by step and by error type."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from runyard import clock
from runyard.errors import InvalidOption, NonRetriable, RetryAfter
from runyard.functions.option_names import NamedOptions

# The delays before the second, third ... attempt: as in Inngest.
DEFAULT_DELAYS = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0)
MAX_ATTEMPTS = 20
MAX_DELAY = 86_400.0


@dataclass(frozen=True)
class Retry(NamedOptions):
    """How often a step is attempted, and the delays in between.

    Parameters
    ----------
    attempts
        The number of attempts, including the first one: 1 to 20.
    delays
        Seconds before the second, third ... attempt; the last one applies to all later attempts.
    jitter
        Each delay is changed at random by up to this share (0 to 1), so that invocations which
        failed together are not retried together.
    by_type
        Other rules by exception type: another `Retry`, or None for no other attempt. Subclasses are
        included, and the most specific type takes precedence.
    """

    attempts: int = 5
    delays: tuple[float, ...] = DEFAULT_DELAYS
    jitter: float = 0.1
    by_type: Mapping[type[BaseException], "Retry | None"] = field(
        default_factory=dict[type[BaseException], "Retry | None"]
    )

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise InvalidOption(f"Retry(attempts={self.attempts}): give 1 to {MAX_ATTEMPTS}")
        if not self.delays or any(not 0 <= delay <= MAX_DELAY for delay in self.delays):
            raise InvalidOption(
                f"Retry(delays={self.delays}): give at least one delay, each of 0 to "
                f"{MAX_DELAY:.0f} seconds"
            )
        if not 0 <= self.jitter <= 1:
            raise InvalidOption(f"Retry(jitter={self.jitter}): give a share from 0 to 1")
        for kind, rule in self.by_type.items():
            is_error = isinstance(kind, type) and issubclass(kind, BaseException)
            if not is_error or not (rule is None or isinstance(rule, Retry)):
                raise InvalidOption(
                    "Retry(by_type=...): give exception classes, each with a Retry or None"
                )

    @classmethod
    def exponential(
        cls,
        first: float,
        *,
        factor: float = 2.0,
        max_delay: float = 3600.0,
        attempts: int = 5,
        jitter: float = 0.1,
    ) -> "Retry":
        """Return rules whose delays grow by `factor` from `first` seconds, up to `max_delay`."""
        if first <= 0 or factor < 1:
            raise InvalidOption(
                f"Retry.exponential(first={first}, factor={factor}): give a first delay above 0 "
                "and a factor of 1 or more"
            )
        if first > max_delay:
            raise InvalidOption(
                f"Retry.exponential(first={first}, max_delay={max_delay}): the first delay is"
                " longer than the longest; give a greater max_delay"
            )
        count = max(1, attempts - 1)
        delays = tuple(min(first * factor**step, max_delay) for step in range(count))
        return cls(attempts, delays, jitter)

    def delay(self, attempt: int, dice: random.Random) -> float:
        """Return the delay in seconds after attempt number `attempt` (from 1) has failed."""
        base = self.delays[min(attempt, len(self.delays)) - 1]
        return min(base * dice.uniform(1 - self.jitter, 1 + self.jitter), MAX_DELAY)

    def rule_for(self, kind: type[BaseException]) -> "Retry | None":
        """Return the rules for errors of a type; None for no other attempt."""
        for known in kind.__mro__:
            if known in self.by_type:
                rule = self.by_type[known]
                return None if rule is None else rule.rule_for(kind)
        return self

    def delay_after(self, error: BaseException, attempt: int, dice: random.Random) -> float | None:
        """Return the delay in seconds after an error; None for no other attempt."""
        rule = self.rule_for(type(error))
        if rule is None or isinstance(error, NonRetriable) or attempt >= rule.attempts:
            return None
        if isinstance(error, RetryAfter):
            seconds = (
                (error.when - clock.now()).total_seconds()
                if isinstance(error.when, datetime)
                else float(error.when)
            )
            return min(max(0.0, seconds), MAX_DELAY)
        return rule.delay(attempt, dice)
