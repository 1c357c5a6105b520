"""The soak test's functions: many quick steps, steps of seconds, waits, and a limit.

The second version has another limit and another step.
"""

import time
from typing import Any

from benchmarks.soak.marks import folder, leave
from runyard import Concurrency, Item, Run, Step, definitions, function, step

PROBE = "soak/probe"
QUICK = "soak/quick"
SLOW = "soak/slow"
SUSPENDED = "soak/suspended"
LIMITED = "soak/limited"
ANSWERED = "soak/answered"
# The last step of each function.
LAST = {PROBE: "probed", QUICK: "counted", SLOW: "after", SUSPENDED: "behind", LIMITED: "limited"}
AT_ONCE = 2

_second_version = (folder() / "version").read_text() == "2"
_tenant = Concurrency(AT_ONCE, key="data.tenant")


def _do(step: str, item: Item, seconds: float) -> dict[str, int]:
    leave("begin", step, item.event.data["key"])
    time.sleep(seconds)
    leave("effect", step, item.event.data["key"])
    return {"version": 2 if _second_version else 1}


def _step(name: str, seconds: float, **options: Any) -> Step[..., Any, Any]:
    """A step that leaves its marks and takes a while in between."""

    @step(name=name, **options)
    def timed(item: Item) -> dict[str, int]:
        return _do(name, item, seconds)

    return timed


@step(threads=4, checkpoint_every=1)
def slow(item: Item) -> dict[str, int]:
    return _do("slow", item, item.event.data["seconds"])


probed = _step("probed", 0)
seen = _step("seen", 0.005)
weighed = _step("weighed", 0.002, threads=4)
counted = _step("counted", 0.02, threads=4)
after = _step("after", 0.01)
before = _step("before", 0.01)
behind = _step("behind", 0.01)
limited = _step("limited", 0.1, checkpoint_every=1)


@function(PROBE, max_batch=10)
def soak_probe(run: Run) -> None:
    probed(run)


@function(QUICK, max_batch=50)
def soak_quick(run: Run) -> None:
    seen(run)
    if _second_version:
        weighed(run)
    counted(run)


@function(SLOW, max_batch=4, concurrency=Concurrency(8))
def soak_slow(run: Run) -> None:
    slow(run)
    after(run)


@function(SUSPENDED, max_batch=20)
def soak_suspended(run: Run) -> None:
    before(run)
    run.wait_for_event("answer", ANSWERED, match="data.key", timeout="1h")
    run.sleep("nap", lambda item: item.event.data["nap"])
    behind(run)


@function(
    LIMITED, max_batch=2, concurrency=(_tenant, Concurrency(6)) if _second_version else _tenant
)
def soak_limited(run: Run) -> None:
    limited(run)


defs = definitions(soak_probe, soak_quick, soak_slow, soak_suspended, soak_limited)
