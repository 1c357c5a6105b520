"""Daily rollups: the same hourly, late and in a backfill; checks that fail when they should."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from dagster import DagsterInstance, materialize

from assets import analytics, report
from resources.analytics.tables import RollupTables
from runyard import clock
from runyard.cli.main import main
from runyard.engine import rollups
from runyard.settings import settings
from runyard.store import database
from runyard.testing import Yard
from tests.tables import rows

TODAY = datetime.now(UTC).date()


def refresh(
    day: date, names: tuple[str, ...] = ()
) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """Materialize a day; return each asset's metadata and the checks that passed."""
    chosen = [asset for asset in analytics.assets if not names or asset.key.path[-1] in names]
    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            chosen,
            instance=instance,
            partition_key=str(day),
            resources={"rollup_tables": RollupTables()},
        )
    shown = {
        event.asset_key.path[-1]: {
            key: value.value for key, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    return shown, {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def kept(name: str) -> list[dict[str, Any]]:
    return rows(f"SELECT * FROM analytics.{name} ORDER BY 1, 2, 3")


def work_for_some_days(yard: Yard) -> None:
    for number in range(3):
        for _ in range(number + 1):
            yard.send(
                "contact/submitted",
                {"name": "G", "email": f"g{number}@example.com", "message": "Hello"},
            )
        yard.send("content/generate.requested", {"topic": "t", "length": 100, "user": "ada"})
        yard.send("media/image.uploaded", {"source": "nothing"})
        yard.work()
        if number < 2:
            yard.advance("1d")


@pytest.fixture
def worked(yard: Yard) -> Yard:
    """Three days of work, the last of which is today."""
    clock.freeze(datetime.now(UTC) - timedelta(days=2))
    database.close_pool()
    work_for_some_days(yard)
    return yard


def test_a_day_has_its_events_functions_mails_and_calls(worked: Yard) -> None:
    shown, passed = refresh(TODAY)
    by_name = {row["name"]: row for row in kept("events")}
    assert (
        by_name["contact/submitted"]["events"] == 3
        and by_name["email/send.requested"]["source"] == "step"
    ) or by_name["email/send.requested"]["events"] == 6
    functions = {row["function"]: row for row in kept("functions")}
    assert functions["notify_contact"]["succeeded"] == 3
    assert functions["notify_contact"]["success_rate"] == 1.0
    assert functions["process_image"]["failed"] == 1
    assert 0 <= functions["notify_contact"]["wait_p50"] <= functions["notify_contact"]["wait_p99"]
    assert functions["notify_contact"]["run_p95"] is not None
    assert {row["template"]: row["sent"] for row in kept("mail")} == {
        "contact": 3,
        "contact_received": 3,
    }
    [ai] = kept("ai")
    assert (ai["provider"], ai["user_id"], ai["calls"]) == ("offline", "ada", 4)
    assert ai["output_tokens"] > 0
    assert ai["cost"] == 0
    assert shown["events"]["plot"].startswith("![events by name](data:image/png;base64,")
    assert "contact/submitted" in shown["events"]["table"]
    frame = pd.read_parquet(shown["functions"]["file"])
    assert list(frame["function"]) == sorted(functions)
    assert shown["functions"]["dagster/row_count"] == len(functions)
    assert passed == {
        "totals_agree": True,
        "no_day_is_missing": False,
        "success_is_high": True,
        "waits_are_short": True,
    }


def test_a_backfill_gives_the_numbers_of_the_daily_runs(worked: Yard) -> None:
    days = [TODAY - timedelta(days=number) for number in (2, 1, 0)]
    for day in days:
        refresh(day)
    first = {rollup.name: kept(rollup.name) for rollup in analytics.ROLLUPS}
    assert [row["events"] for row in first["events"] if row["name"] == "contact/submitted"] == [
        1,
        2,
        3,
    ]
    for day in reversed(days):
        refresh(day)
    assert {rollup.name: kept(rollup.name) for rollup in analytics.ROLLUPS} == first
    assert refresh(TODAY, ("events",))[1]["no_day_is_missing"]


def test_a_late_event_lands_in_its_own_day_which_comes_back(worked: Yard) -> None:
    late_day = TODAY - timedelta(days=1)
    refresh(late_day, ("events",))
    at = datetime(late_day.year, late_day.month, late_day.day, 12, tzinfo=UTC)
    worked.send("late/one", {}, ts=int(at.timestamp() * 1000))
    assert late_day in rollups.changed_days(timedelta(hours=1))
    refresh(late_day, ("events",))
    assert [
        (row["day"], row["events"], row["late"])
        for row in kept("events")
        if row["name"] == "late/one"
    ] == [(late_day, 1, 1)]


def test_the_schedule_asks_for_the_days_that_have_changed(worked: Yard) -> None:
    from dagster import build_schedule_context

    from definitions import defs
    from schedules.analytics import schedules

    with (
        DagsterInstance.ephemeral() as instance,
        build_schedule_context(
            instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        found = schedules[0].evaluate_tick(context).run_requests
    assert found is not None
    assert str(TODAY) in [request.partition_key for request in found]
    assert len(found) <= 3


def test_what_is_deleted_already_is_not_counted_down(
    worked: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = TODAY - timedelta(days=2)
    refresh(day, ("events",))
    before = kept("events")
    monkeypatch.setenv("RUNYARD_RETENTION", "1d")
    settings.cache_clear()
    with pytest.raises(Exception, match="has been deleted"):
        refresh(day, ("events",))
    assert kept("events") == before
    monkeypatch.undo()
    settings.cache_clear()


def test_a_check_fails_where_the_totals_do_not_agree(worked: Yard) -> None:
    frame = pd.DataFrame([{"events": 1}])
    assert not analytics._totals_agree(TODAY - timedelta(days=1), frame, RollupTables()).passed


def ends(**functions: tuple[int, int]) -> pd.DataFrame:
    """The rows of a day: each function's successes and failures."""
    rows = [
        {
            "function": name,
            "succeeded": good,
            "failed": bad,
            "success_rate": good / (good + bad) if good + bad else None,
        }
        for name, (good, bad) in functions.items()
    ]
    return pd.DataFrame(rows, columns=["function", "succeeded", "failed", "success_rate"]).astype(
        {"success_rate": float}
    )


def judged(frame: pd.DataFrame) -> tuple[bool, str, str]:
    """Whether the check passes, which functions are below, and which have too few ends."""
    found = analytics._success_is_high(TODAY, frame, RollupTables())
    return bool(found.passed), *(
        str(found.metadata[name].value) for name in ("below", "below, of too few ends")
    )


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({"once": (0, 1)}, (True, "none", "once 0% of 1")),
        ({"nine": (8, 1)}, (True, "none", "nine 89% of 9")),
        ({"nine": (0, 9)}, (True, "none", "nine 0% of 9")),
        ({"ten": (8, 2)}, (False, "ten 80% of 10", "none")),
        ({"ten": (9, 1)}, (True, "none", "none")),
        (
            {"many": (890, 110), "once": (0, 1), "never": (0, 0)},
            (False, "many 89% of 1000", "once 0% of 1"),
        ),
        ({}, (True, "none", "none")),
    ],
)
def test_success_is_judged_where_there_is_enough_of_it(
    functions: dict[str, tuple[int, int]], expected: tuple[bool, str, str]
) -> None:
    assert judged(ends(**functions)) == expected


def test_how_many_ends_are_enough_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_FEWEST_ENDS", "1")
    assert judged(ends(once=(0, 1))) == (False, "once 0% of 1", "none")


def test_slow_starts_and_failures_are_named(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_FEWEST_ENDS", "1")
    clock.freeze(datetime.now(UTC) - timedelta(minutes=10))
    database.close_pool()
    day = yard.now.date()
    yard.send("media/image.uploaded", {"source": "nothing"})
    clock.freeze(yard.now + timedelta(minutes=6))
    database.close_pool()
    yard.work()
    _, passed = refresh(day, ("functions",))
    assert passed == {"success_is_high": False, "waits_are_short": False}


def test_the_week_is_printed_with_and_without_aggregates(worked: Yard) -> None:
    from click.testing import CliRunner

    fresh = CliRunner().invoke(main, ["report"])
    assert fresh.exit_code == 0, fresh.output
    lines = {
        line.split()[0]: line.split()[1:]
        for line in fresh.output.splitlines()
        if line.startswith("  ")
    }
    assert lines["contact/submitted"] == ["6", "0"]
    assert lines["notify_contact"][:3] == ["6", "6", "0"]
    assert lines["offline"][0] == "12"
    for number in range(3):
        refresh(TODAY - timedelta(days=number))
    assert CliRunner().invoke(main, ["report"]).output == fresh.output
    assert "media: nothing" in report.week()
