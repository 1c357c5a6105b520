"""The events of schedules that applications have registered."""

from datetime import UTC, datetime, timedelta
from typing import Any

from runyard.apps.options import Schedule
from runyard.dagster_adapter.schedules import timer_event
from runyard.functions.triggers import Cron

AT = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
CRON = Cron("30 6 * * *")


def made(jitter: float = 0.0, at: datetime = AT) -> dict[str, Any]:
    """The event of a time."""
    return timer_event(Schedule("30 6 * * *", CRON, jitter), "shop_bill", CRON, "30 6 * * *", at)


def fires_at(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["data"]["fireAt"])


def test_without_jitter_a_function_is_due_at_the_time() -> None:
    assert fires_at(made()) == AT
    assert made()["data"]["scheduledAt"] == "2026-03-01T06:30:00.000Z"


def test_jitter_lets_it_be_due_later_by_that_at_most() -> None:
    delays = [
        fires_at(made(300.0, at)) - at for at in (AT + timedelta(days=day) for day in range(50))
    ]
    assert timedelta(0) <= min(delays)
    assert max(delays) <= timedelta(minutes=5)


def test_times_differ_in_their_delays() -> None:
    first, second = made(300.0), made(300.0, AT + timedelta(days=1))
    assert fires_at(second) - fires_at(first) != timedelta(days=1)


def test_a_repeated_tick_has_the_same_delay() -> None:
    first, second = made(300.0), made(300.0)
    assert (first["id"], first["ts"]) == (second["id"], second["ts"])


def test_the_time_that_it_stands_for_is_told_as_it_is() -> None:
    assert made(300.0)["data"]["scheduledAt"] == "2026-03-01T06:30:00.000Z"


def test_the_event_is_due_when_it_fires() -> None:
    row = made(300.0)
    assert abs(row["ts"] / 1_000 - fires_at(row).timestamp()) < 0.002
