"""How a measure grows with a size: the exponent of a power law, and what it foretells."""

import math
from collections.abc import Mapping


def exponent(measured: Mapping[float, float]) -> float:
    """The exponent of the power law that fits measures by size best (least squares of logarithms).

    0 where the measure does not depend on the size, 1 where it grows in proportion.
    """
    logs = [(math.log(size), math.log(value)) for size, value in measured.items()]
    x_mean = sum(x for x, _ in logs) / len(logs)
    y_mean = sum(y for _, y in logs) / len(logs)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in logs)
    return covariance / sum((x - x_mean) ** 2 for x, _ in logs)


def extrapolated(measured: Mapping[float, float], size: float) -> float:
    """The measure at a larger size, if it goes on from the largest one as between the last two."""
    last, previous = sorted(measured, reverse=True)[:2]
    steepness = exponent({at: measured[at] for at in (previous, last)})
    return float(measured[last] * (size / last) ** max(0.0, steepness))
