"""Percentiles of measured times."""

from collections.abc import Iterable

_SHARES = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99, "max_s": 1.0}


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """The median, 90th and 99th percentile and maximum, rounded to milliseconds."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in _SHARES.items()
    }
