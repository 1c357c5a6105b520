"""What has happened since the schema was created, counted: the source of the metrics.

Statements that begin, end and record things add rows to `runyard.tallies`
(runyard/store/schema/tallies.sql); here these become counters and histograms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runyard.store import database
from runyard.store.queries import Row, fetch_all

# Names of events with a counter of their own: Prometheus keeps a series for each.
MOST_EVENT_NAMES = 200

Labels = tuple[str, ...]


@dataclass
class Histogram:
    """Times in seconds: how many are in each bucket, and their sum.

    Attributes
    ----------
    buckets
        The upper bound of each bucket with the number of times up to it, in ascending order.
    seconds
        The sum of all times.
    """

    buckets: list[tuple[float, int]]
    seconds: float = 0.0


@dataclass
class Totals:
    """All counters, by their labels: a function or an event name, then an outcome if there is one.

    Attributes
    ----------
    received
        Events by name.
    started
        Invocations begun, by function.
    ended
        Invocations ended, by function and outcome.
    attempts
        Attempts of steps, by function and outcome.
    lost
        Leases taken from lost workers, by function.
    waiting, running, stepping
        By function: the time from due to start, that of invocations, and that of steps.
    """

    received: dict[Labels, int] = field(default_factory=dict[Labels, int])
    started: dict[Labels, int] = field(default_factory=dict[Labels, int])
    ended: dict[Labels, int] = field(default_factory=dict[Labels, int])
    attempts: dict[Labels, int] = field(default_factory=dict[Labels, int])
    lost: dict[Labels, int] = field(default_factory=dict[Labels, int])
    waiting: dict[Labels, Histogram] = field(default_factory=dict[Labels, Histogram])
    running: dict[Labels, Histogram] = field(default_factory=dict[Labels, Histogram])
    stepping: dict[Labels, Histogram] = field(default_factory=dict[Labels, Histogram])


def fold() -> None:
    """Add what has happened to the counters."""
    with database.connection() as connection:
        fetch_all(connection, "fold_tallies", most_names=MOST_EVENT_NAMES)


def totals() -> Totals:
    """All counters, up to date; raises `DatabaseUnavailable`."""
    fold()
    with database.connection() as connection:
        rows = fetch_all(connection, "counters")
        bounds = next(iter(fetch_all(connection, "buckets")))["bounds"]
    of = {metric: [row for row in rows if row["metric"] == metric] for metric in _METRICS}
    return Totals(
        received=_count(of["received"], "name"),
        started=_count([row for row in of["started"] if row["label"] == "first"], "name"),
        ended=_count(of["ended"], "name", "label"),
        attempts=_count(of["step"], "name", "label"),
        lost=_count(of["lost"], "name"),
        waiting=_histograms(of["started"], bounds),
        running=_histograms(of["ended"], bounds),
        stepping=_histograms(of["step"], bounds),
    )


_METRICS = ("received", "started", "ended", "step", "lost")


def _count(rows: Sequence[Row], *labels: str) -> dict[Labels, int]:
    counts: dict[Labels, int] = {}
    for row in rows:
        key = tuple(row[label] for label in labels)
        counts[key] = counts.get(key, 0) + int(row["count"])
    return counts


def _histograms(rows: Sequence[Row], bounds: Sequence[float]) -> dict[Labels, Histogram]:
    counts: dict[str, dict[float, int]] = {}
    seconds: dict[str, float] = {}
    for row in rows:
        if row["bucket"] == 0:  # nothing was timed
            continue
        name, bucket = row["name"], row["bucket"]
        buckets = counts.setdefault(name, dict.fromkeys(bounds, 0))
        buckets[bucket] = buckets.get(bucket, 0) + int(row["count"])
        seconds[name] = seconds.get(name, 0.0) + row["seconds"]
    return {(name,): Histogram(_summed(counts[name]), seconds[name]) for name in counts}


def _summed(buckets: Mapping[float, int]) -> list[tuple[float, int]]:
    up_to, summed = 0, []
    for bound in sorted(buckets):
        up_to += buckets[bound]
        summed.append((bound, up_to))
    return summed
