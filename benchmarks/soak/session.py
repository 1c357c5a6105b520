"""The phases of a soak test: a stack for each broker, with faults under load, then the verdict."""

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.soak import functions
from benchmarks.soak.brokers import BROKERS, Broker
from benchmarks.soak.faults import Fault, Faults
from benchmarks.soak.load import Load
from benchmarks.soak.marks import Marks
from benchmarks.soak.verdict import judge, recovery
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.store import database

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_PAUSE_SECONDS = (5.0, 15.0)
_READ_ONLY_SECONDS = 60.0
_DRAIN_SECONDS = 240.0
_FINAL = {"succeeded", "failed", "cancelled", "skipped"}


def soak(options: argparse.Namespace, folder: Path) -> int:
    """Run the phases, one for each broker; return 1 when a guarantee was broken."""
    load, marks = Load(options.seed), Marks()
    done: list[Fault] = []
    print(
        f"seed {options.seed}; brokers {', '.join(options.brokers)}; {options.minutes:g} minutes",
        flush=True,
    )
    for place, name in enumerate(options.brokers):
        with _broker(name, folder) as broker, Stack(quiet=True) as stack:
            if place == 0:
                load.start()
            faults = Faults(stack, broker, marks, options.seed + place)
            _harm(
                faults,
                60 * options.minutes / len(options.brokers),
                options.seed + place,
                deploys=place == 0,
            )
            faults.wait_for_probes()
            done += faults.done
            if place == len(options.brokers) - 1:
                load.stop()
                _drain(load)
                return _report(options, load, marks, done)
    raise AssertionError("there is at least one broker")


def _harm(faults: Faults, seconds: float, seed: int, *, deploys: bool) -> None:
    """Inject one fault after another.

    In the middle comes a deploy of changed code, or a minute with a read-only database.
    """
    pauses = random.Random(seed)
    began = time.monotonic()
    special = True
    while (passed := time.monotonic() - began) < seconds:
        if special and passed > seconds / 2:
            special = False
            if deploys:
                faults.deploy()
            else:
                faults.read_only(min(_READ_ONLY_SECONDS, seconds / 4))
        else:
            faults.one()
        print(f"  {passed:5.0f} s  {faults.done[-1].name}", flush=True)
        time.sleep(pauses.uniform(*_PAUSE_SECONDS))


@contextmanager
def _broker(name: str, folder: Path) -> Iterator[Broker]:
    """A broker for the next stack."""

    broker = BROKERS[name](folder)
    os.environ.pop("RUNYARD_BROKER_URL", None)
    if broker.url is not None:
        os.environ["RUNYARD_BROKER_URL"] = broker.url
    settings.cache_clear()
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


def _drain(load: Load) -> None:
    """Wait until all accepted events are final; what is not after some minutes is lost."""

    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        statuses = _statuses()
        if all(
            set(statuses.get(key, ["queued"])) <= _FINAL
            for key, (name, _) in load.accepted.items()
            if name in functions.LAST
        ):
            return
        time.sleep(1)


def _statuses() -> dict[str, list[str]]:
    """The statuses of the invocations of each event, by its idempotency key."""
    rows = _rows(
        "SELECT events.idempotency_key AS key,"
        " array_agg(invocations.status) FILTER (WHERE invocations.id IS NOT NULL) AS statuses"
        " FROM runyard.events LEFT JOIN runyard.invocations ON event_id = events.id"
        " WHERE idempotency_key IS NOT NULL GROUP BY 1"
    )
    return {str(row["key"]): list(row["statuses"] or []) for row in rows}


def _rows(statement: str) -> list[dict[str, Any]]:

    with database.connection() as connection:
        return [dict(row) for row in connection.execute(statement.encode()).fetchall()]


def _report(options: argparse.Namespace, load: Load, marks: Marks, done: list[Fault]) -> int:

    tenants = {
        row["key"]: row["tenant"]
        for row in _rows(
            "SELECT idempotency_key AS key, data->>'tenant' AS tenant FROM runyard.events"
            " WHERE data ? 'tenant'"
        )
    }
    verdict = judge(load.accepted, _statuses(), marks.executions(), done, tenants)
    waits = recovery(done)
    counts = {
        "events accepted": len(load.accepted),
        "requests refused and sent again": load.refused,
        "steps done": len(marks.executions()),
        "faults": len(done),
        "lost": len(verdict.lost),
        "done by two at once": len(verdict.doubled),
        "effects repeated in their window": len(verdict.inside),
        "effects repeated outside of it": len(verdict.outside),
        "over a limit": verdict.over_the_limit,
    }
    for what, number in counts.items():
        print(f"{what:<36} {number:>8}")
    print(f"\n{'a new event begins after':<36} {'times':>6} {'p50 s':>7} {'max s':>7}")
    for name, times, median, most in waits:
        print(f"{name:<36} {times:>6} {median:>7.1f} {most:>7.1f}")
    for what in ("lost", "doubled", "outside", "inside"):
        for line in getattr(verdict, what):
            print(f"{what}: {line}")
    path = _RESULTS / f"soak-{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    said = {
        "at": datetime.now(UTC).isoformat(),
        "machine": machine(),
        "seed": options.seed,
        "minutes": options.minutes,
        "counts": counts,
        "recovery": waits,
    }
    path.write_text(json.dumps(said, indent=2) + "\n")
    print(f"written to {path.name}")
    return 0 if verdict.holds else 1
