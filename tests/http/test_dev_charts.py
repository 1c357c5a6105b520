"""The charts of the dev page: what ended, what failed, and how long starts were waited for."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from runyard import clock, send
from runyard.engine import tallies
from runyard.functions.registry import Function
from runyard.gateway.dev import charts
from runyard.gateway.dev.charts import BARS, history
from tests.http.history import run_through
from tests.http.visitor import Visitor
from tests.tables import rows
from tests.web_process import WebProcess

NOON = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def at_noon(functions: dict[str, Function], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is half a minute past noon, and every look at a chart is up to date."""
    monkeypatch.setattr(charts, "_FOLD_SECONDS", -1.0)
    clock.freeze(NOON)
    yield
    clock.freeze(None)


def ended(function: Function, *, failed: bool = False) -> None:
    """Send an event, and end its invocation."""
    send("also/one")
    run_through(function, error="x" if failed else None)


def minutes_later(minutes: int) -> None:
    """Go on in time."""
    clock.freeze(clock.now() + timedelta(minutes=minutes))


@pytest.mark.usefixtures("at_noon")
def test_what_ended_stands_in_the_minute_in_which_it_ended(functions: dict[str, Function]) -> None:
    ended(functions["also"])
    minutes_later(3)
    ended(functions["also"])
    ended(functions["also"], failed=True)
    slots = history("also", "1h").slots
    assert [(slot.ended, slot.failed) for slot in slots[-4:]] == [(1, 0), (0, 0), (0, 0), (2, 1)]
    assert slots[-1].at == NOON.replace(second=0, minute=3)


@pytest.mark.usefixtures("at_noon")
def test_what_is_counted_late_stands_in_the_minute_in_which_it_happened(
    functions: dict[str, Function],
) -> None:
    ended(functions["also"])
    minutes_later(10)
    assert history("also", "1h").slots[-11].ended == 1


@pytest.mark.usefixtures("at_noon")
def test_the_wait_is_the_mean_of_those_that_started(functions: dict[str, Function]) -> None:
    send("also/one")
    minutes_later(1)
    send("also/one")
    run_through(functions["also"])
    assert history("also", "1h").slots[-1].waited == pytest.approx(30.0)
    assert history("also", "1h").slots[-2].waited is None


@pytest.mark.usefixtures("at_noon")
def test_all_functions_together_have_a_history_too(functions: dict[str, Function]) -> None:
    ended(functions["also"])
    send("email/send.requested", {"to": ["ada@example.com"], "subject": "x", "text": "y"})
    run_through(functions["send_email"])
    assert history("", "1h").slots[-1].ended == 2
    assert history("also", "1h").slots[-1].ended == 1


@pytest.mark.usefixtures("at_noon")
def test_a_longer_span_has_as_many_bars_of_more_minutes(functions: dict[str, Function]) -> None:
    ended(functions["also"])
    minutes_later(6)
    ended(functions["also"])
    six_hours = history("also", "6h")
    assert len(six_hours.slots) == BARS
    assert [slot.ended for slot in six_hours.slots[-2:]] == [pytest.approx(1 / 6)] * 2
    assert six_hours.until - six_hours.since == timedelta(hours=6)


@pytest.mark.usefixtures("at_noon")
def test_figures_are_kept_for_a_day(functions: dict[str, Function]) -> None:
    ended(functions["also"])
    tallies.fold()
    minutes_later(24 * 60 + 2)
    ended(functions["also"])
    tallies.fold()
    assert len(rows("SELECT FROM runyard.minute_stats WHERE function = 'also'")) == 1


@pytest.mark.usefixtures("at_noon")
def test_the_highest_bar_reaches_the_top_and_a_low_one_can_be_seen(
    functions: dict[str, Function],
) -> None:
    ended(functions["also"])
    rows("UPDATE runyard.tallies SET count = 1000 * count WHERE metric = 'ended' RETURNING 1")
    minutes_later(1)
    ended(functions["also"])
    throughput, failures, _ = history("also", "1h").charts()
    assert [bar.height for bar in throughput.bars] == [charts.HEIGHT, 1.0]
    assert throughput.most == "1,000"
    assert throughput.summary == "Ended per minute, the last 1h: at most 1,000, at 12:00 UTC"
    assert failures.bars == []
    assert failures.summary == "Failed per minute, the last 1h: none"


@pytest.mark.usefixtures("at_noon")
def test_a_small_chart_says_how_many_ended_and_failed(functions: dict[str, Function]) -> None:
    ended(functions["also"])
    ended(functions["also"], failed=True)
    chart = history("also", "1h").sparkline()
    assert chart.summary == "2 ended in 1h, 1 of them failed"
    assert [(bar.height, bar.failed_height) for bar in chart.bars] == [(40.0, 20.0)]


@pytest.fixture
def visitor(web: WebProcess) -> Visitor:
    return Visitor(web, "all")


def test_the_functions_page_has_a_small_chart_of_each_function(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    ended(functions["also"], failed=True)
    tallies.fold()
    page = visitor.get("/dev/functions").text
    assert page.count('<svg class="spark"') == 3
    assert 'aria-label="1 ended in 1h, 1 of them failed"' in page


@pytest.mark.parametrize("path", ["/dev/health", "/dev/functions/also"])
def test_a_page_has_three_charts_and_the_same_figures_as_a_table(
    visitor: Visitor, functions: dict[str, Function], path: str
) -> None:
    ended(functions["also"], failed=True)
    tallies.fold()
    page = visitor.get(path).text
    assert re.findall(r"<figcaption>(.+?)</figcaption>", page) == [
        "Ended per minute",
        "Failed per minute",
        "Mean wait for a start",
    ]
    assert "</time></th><td>1.0</td><td>1.0</td>" in page


def test_an_unknown_span_is_an_hour(visitor: Visitor) -> None:
    assert 'aria-label="The last 1h"' in visitor.get("/dev/health?span=9y").text
    assert 'aria-label="The last 24h"' in visitor.get("/dev/health?span=24h").text
