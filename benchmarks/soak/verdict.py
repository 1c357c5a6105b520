"""The verdict: marks of the steps and rows of the tables, compared with the guarantees."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.soak import functions
from benchmarks.soak.faults import Fault
from benchmarks.soak.marks import Execution

# Results are saved within this time of a step's end (docs/durability.md), plus some for writing.
WINDOW_SECONDS = 0.5 + 0.4


@dataclass
class Verdict:
    """What was observed, by kind; all lists but `inside` have to be empty."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    over_the_limit: int = 0

    @property
    def holds(self) -> bool:
        """Whether every guarantee held."""
        return not (self.lost or self.doubled or self.outside or self.over_the_limit)


def judge(
    accepted: Mapping[str, tuple[str, float]],
    statuses: Mapping[str, Sequence[str]],
    marks: Sequence[Execution],
    faults: Sequence[Fault],
    tenants: Mapping[str, object],
) -> Verdict:
    """Compare the accepted events (name by key) with their outcomes (by key) and the executions."""
    verdict = Verdict()
    by_step: dict[tuple[str, str], list[Execution]] = defaultdict(list)
    for one in marks:
        by_step[one.key, one.step].append(one)
    for key, (name, _) in accepted.items():
        if name in functions.LAST:
            done = [one for one in by_step[key, functions.LAST[name]] if one.effect is not None]
            if list(statuses.get(key, [])) != ["succeeded"] or not done:
                verdict.lost.append(
                    f"{name} {key}: {list(statuses.get(key, []))}, last step done {len(done)} times"
                )
    for (key, step), done in by_step.items():
        _judge_step(verdict, f"{step} of {key}", done, faults)
    verdict.over_the_limit = _over_the_limit(marks, tenants, faults)
    return verdict


def _judge_step(
    verdict: Verdict, what: str, done: Sequence[Execution], faults: Sequence[Fault]
) -> None:
    with_effect = [one for one in done if one.effect is not None]
    for earlier, later in pairwise(with_effect):
        assert earlier.effect is not None
        assert later.effect is not None
        by = [
            fault.name
            for fault in faults
            if fault.began <= earlier.effect + WINDOW_SECONDS and fault.ended >= earlier.begin
        ]
        if by:
            verdict.inside.append(f"{what}: {', '.join(by)}")
        elif later.begin < earlier.effect:
            verdict.doubled.append(f"{what}: by {earlier.pid} and {later.pid} at the same time")
        else:
            verdict.outside.append(
                f"{what}: {earlier.effect:.3f} in {earlier.pid}, {later.effect:.3f} in {later.pid}"
            )


def _over_the_limit(
    marks: Sequence[Execution], tenants: Mapping[str, object], faults: Sequence[Fault]
) -> int:
    """How often a tenant had more executions at once than its limit allows.

    A process that was stopped for longer than its lease is not counted.
    """
    stops = [fault for fault in faults if fault.name.startswith("stop")]
    changes: dict[object, list[tuple[float, int]]] = defaultdict(list)
    for one in marks:
        if one.step == "limited" and one.effect is not None:
            effect = one.effect
            if not any(fault.began <= effect and fault.ended >= one.begin for fault in stops):
                changes[tenants.get(one.key)] += [(one.begin, 1), (effect, -1)]
    over = 0
    for steps in changes.values():
        at_once = 0
        for _, change in sorted(steps):
            at_once += change
            over += change > 0 and at_once > functions.AT_ONCE
    return over


def recovery(faults: Sequence[Fault]) -> list[tuple[str, int, float, float]]:
    """For each kind of fault: its count, and the median and maximum recovery in seconds.

    Recovery is how long a new event then waited for its first step.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        by_name[fault.name].append(float("inf") if fault.recovery is None else fault.recovery)
    return [
        (name, len(seconds), statistics.median(seconds), max(seconds))
        for name, seconds in sorted(by_name.items())
    ]
