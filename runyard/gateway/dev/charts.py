"""Charts of the last hours: what ended, what failed, and how long starts were waited for.

They are bars in SVG, drawn on the server: the page loads nothing for them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runyard import clock
from runyard.engine import tallies
from runyard.store import database
from runyard.store.queries import Row, fetch_all

# Every chart has this many bars.
BARS = 60
# The minutes of a bar, by the time that a chart covers.
SPANS: Mapping[str, int] = {"1h": 1, "6h": 6, "24h": 24}
HEIGHT = 40.0
_FOLD_SECONDS = 5.0
_folded_at = float("-inf")


@dataclass(frozen=True)
class Slot:
    """What happened in the time of a bar: per minute, and the mean wait in seconds.

    `waited` is None if nothing started.
    """

    at: datetime
    ended: float = 0.0
    failed: float = 0.0
    waited: float | None = None


@dataclass(frozen=True)
class Bar:
    """A bar: its place from the left, its height from the bottom, and what it says.

    Attributes
    ----------
    failed_height
        The part of the height that stands for failures.
    """

    x: int
    height: float
    failed_height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes
    ----------
    most
        The value at the top, as text.
    summary
        The chart in words.
    """

    title: str
    most: str
    summary: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class History:
    """The slots of a function, or of all, with the time that they cover."""

    span: str
    slots: Sequence[Slot]

    @property
    def since(self) -> datetime:
        """When the first slot begins."""
        return self.slots[0].at

    @property
    def until(self) -> datetime:
        """When the last slot ends."""
        return self.slots[-1].at + timedelta(minutes=SPANS[self.span])

    def busy_slots(self) -> list[Slot]:
        """The slots in which something happened, the newest first."""
        return [slot for slot in reversed(self.slots) if slot.ended or slot.waited is not None]

    def charts(self) -> list[Chart]:
        """Throughput, failures and waiting time."""
        return [
            self._chart("Ended per minute", [slot.ended for slot in self.slots], _rate),
            self._chart("Failed per minute", [slot.failed for slot in self.slots], _rate),
            self._chart("Mean wait for a start", [slot.waited for slot in self.slots], _seconds),
        ]

    def sparkline(self) -> Chart:
        """What ended, with failures, in one small chart."""
        chart = self._chart("Ended per minute", [slot.ended for slot in self.slots], _rate)
        most = max((slot.ended for slot in self.slots), default=0.0)
        bars = [
            Bar(bar.x, bar.height, _height(self.slots[bar.x].failed, most), bar.text)
            for bar in chart.bars
        ]
        minutes = SPANS[self.span]
        ended = round(sum(slot.ended for slot in self.slots) * minutes)
        failed = round(sum(slot.failed for slot in self.slots) * minutes)
        summary = f"{ended:,} ended in {self.span}, {failed:,} of them failed"
        return Chart(chart.title, chart.most, summary, bars)

    def _chart(
        self, title: str, values: Sequence[float | None], as_text: Callable[[float], str]
    ) -> Chart:
        most, number = max(
            ((value, -number) for number, value in enumerate(values) if value), default=(0.0, 0)
        )
        bars = [
            Bar(number, _height(value, most), 0.0, f"{as_text(value)} at {_clock(slot.at)}")
            for number, (slot, value) in enumerate(zip(self.slots, values, strict=True))
            if value
        ]
        top = f"at most {as_text(most)}, at {_clock(self.slots[-number].at)}" if bars else "none"
        return Chart(title, as_text(most), f"{title}, the last {self.span}: {top}", bars)


def histories(functions: Sequence[str], span: str) -> dict[str, History]:
    """The histories of functions, by name; that of all functions is `''`.

    Parameters
    ----------
    span
        One of `SPANS`.
    """
    _fold()
    minutes = SPANS[span]
    size = 60 * minutes
    last = int(clock.now().timestamp()) // size
    since = datetime.fromtimestamp((last - BARS + 1) * size, UTC)
    with database.connection() as connection:
        rows = fetch_all(
            connection,
            "minute_stats",
            functions=list(functions),
            since=since,
            minutes=minutes,
            spans=BARS,
        )
    # Of a thousand functions most are idle, and share these.
    idle = [Slot(since + timedelta(seconds=number * size)) for number in range(BARS)]
    slots = {name: list(idle) for name in functions}
    for row in rows:
        number = row["number"]
        slots[row["function"]][number] = _slot(row, idle[number].at, minutes)
    return {name: History(span, slots[name]) for name in functions}


def history(function: str, span: str) -> History:
    """The history of a function, or of all (`''`) over one of the `SPANS`, else an hour."""
    return histories([function], span if span in SPANS else "1h")[function]


def _slot(row: Row, at: datetime, minutes: int) -> Slot:
    waited = row["waited"] / row["starts"] if row["starts"] else None
    return Slot(at, row["ended"] / minutes, row["failed"] / minutes, waited)


def _fold() -> None:
    """Bring the figures up to date, now and then: the daemon does so once a minute."""
    global _folded_at
    now = time.monotonic()
    if now - _folded_at > _FOLD_SECONDS:
        _folded_at = now
        tallies.fold()


def _height(value: float, most: float) -> float:
    """A height that can be seen, if there is anything to see."""
    return round(max(1.0, HEIGHT * value / most), 1) if value else 0.0


def _clock(at: datetime) -> str:
    return f"{at:%H:%M} UTC"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:,.1f} s"
