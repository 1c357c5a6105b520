"""When a failed step is retried."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.errors import InvalidOption, NonRetriable, RetryAfter, StepTimeout
from runyard.functions.retry import DEFAULT_DELAYS, MAX_DELAY, Retry

DICE = random.Random(1)


def test_there_are_five_attempts_by_default() -> None:
    exact = Retry(jitter=0)
    assert exact.attempts == 5
    delays = [exact.delay_after(RuntimeError(), attempt, DICE) for attempt in range(1, 6)]
    assert delays == [15, 30, 60, 120, None]


@given(attempt=st.integers(1, 30), jitter=st.floats(0, 1), seed=st.integers())
def test_a_delay_stays_within_its_jitter(attempt: int, jitter: float, seed: int) -> None:
    base = DEFAULT_DELAYS[min(attempt, len(DEFAULT_DELAYS)) - 1]
    delay = Retry(jitter=jitter).delay(attempt, random.Random(seed))
    assert base * (1 - jitter) - 1e-6 <= delay <= min(base * (1 + jitter), MAX_DELAY) + 1e-6


@given(
    first=st.floats(0.1, 100),
    factor=st.floats(1, 5),
    max_delay=st.floats(100, 10_000),
    attempts=st.integers(2, 20),
)
def test_exponential_delays_grow_to_their_maximum(
    first: float, factor: float, max_delay: float, attempts: int
) -> None:
    delays = Retry.exponential(first, factor=factor, max_delay=max_delay, attempts=attempts).delays
    assert delays[0] == pytest.approx(first)
    assert list(delays) == sorted(delays)
    assert delays[-1] <= max_delay


def test_a_non_retriable_error_is_not_retried() -> None:
    assert Retry().delay_after(NonRetriable("no"), 1, DICE) is None


def test_retry_after_obeys_seconds_and_times() -> None:
    assert Retry().delay_after(RetryAfter("wait", 7), 1, DICE) == 7
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert Retry().delay_after(RetryAfter("wait", later), 1, DICE) == pytest.approx(90, abs=2)
    assert Retry().delay_after(RetryAfter("wait", -5), 1, DICE) == 0
    assert Retry(attempts=1).delay_after(RetryAfter("wait", 7), 1, DICE) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": 21}, "attempts=21"),
        ({"delays": ()}, "delays"),
        ({"delays": (-1.0,)}, "delays"),
        ({"jitter": 2}, "jitter"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        Retry(**options)


def test_a_time_without_a_time_zone_is_rejected() -> None:
    with pytest.raises(InvalidOption, match="time zone"):
        RetryAfter("wait", datetime(2026, 1, 1))


def test_a_step_timeout_follows_the_rules_for_timeouts() -> None:
    often = Retry(attempts=9, delays=(1.0,))
    assert Retry(by_type={TimeoutError: None}).rule_for(StepTimeout) is None
    assert Retry(by_type={TimeoutError: None, StepTimeout: often}).rule_for(StepTimeout) == often
    assert often.rule_for(StepTimeout) == often
