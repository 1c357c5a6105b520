"""One to eight workers on hosts of their own, and which process the next event waits for.

Every step waits 100 ms and computes nothing. There is always more queued than the workers can take,
and nothing else is going on. All hosts share the cores of this machine, so that events a second end
with these: what holds on others is the CPU time that each role needs for an event.
"""

import time
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.background import meanwhile
from benchmarks.databases import number, rows
from benchmarks.many_hosts import ManyHosts, many_hosts, wait_for

SLOTS = 16
WINDOW_SECONDS = 12.0
# The first runs of a process are slower: the window begins when each has had a few.
RAMP_RUNS_PER_SLOT = 3
RAMP_LIMIT_SECONDS = 30.0
_FEED_SECONDS = 0.1
# Sent by SQL, so that the sender takes nothing from the workers.
_SEND = (
    "WITH sent AS (INSERT INTO runyard.events (name, data)"
    " SELECT %s, jsonb_build_object('n', n) FROM generate_series(1, %s) AS n RETURNING 1)"
    " SELECT count(*) FROM sent"
)

Result = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """A function under load.

    Attributes
    ----------
    event, function
        Its event, and its name.
    queued
        How many of its invocations are always queued.
    workers
        How many workers there are, one measurement after the other.
    """

    event: str
    function: str
    queued: int
    workers: tuple[int, ...]

    def measure(self) -> Result:
        """Steps that wait 100 ms on 1 to 8 workers with 16 slots: events a second, CPU by role."""
        result: Result = {}
        with many_hosts("benchmarks.waiting", workers=max(self.workers), slots=SLOTS) as hosts:
            for count in self.workers:
                if hosts.workers:
                    self._forget_rest()
                hosts.add_workers(count - hosts.workers)
                measured = self._load(hosts)
                print(f"  {count} workers: {measured['events_per_s']} events a second", flush=True)
                result |= {f"{name}_{count}": value for name, value in measured.items()}
        return result

    def _load(self, hosts: ManyHosts) -> Result:
        """Load the workers that there are; measure in a window after a while."""
        with meanwhile(self._feed, _FEED_SECONDS):
            self._ramp(hosts)
            psutil.cpu_percent()  # The next call says how busy the machine was since this one.
            before, since, began = hosts.cpu_seconds(), _now(), time.monotonic()
            time.sleep(WINDOW_SECONDS)
            cpu, until = hosts.cpu_seconds(), _now()
            seconds, busy = time.monotonic() - began, psutil.cpu_percent()
            assert self._queued(), "the queue was empty: the workers waited for the sender"
            ended, runs = self._ended(since, until), _runs(since, until)
            connections = number("SELECT count(*) FROM pg_stat_activity WHERE client_port > 0")
        cores = {role: (cpu[role] - before[role]) / seconds for role in cpu}
        return {
            "events_per_s": round(ended / seconds, 1),
            "runs_per_s": round(runs / seconds, 1),
            **{f"{role}_cores": round(share, 2) for role, share in cores.items()},
            **{
                f"{role}_ms_per_run": round(1000 * share * seconds / max(1, runs), 2)
                for role, share in cores.items()
            },
            # What else went on: the less, the more the events a second are worth.
            "other_cores": round(busy / 100 * (psutil.cpu_count() or 1) - sum(cores.values()), 2),
            "connections": connections,
            "workers_mb": round(hosts.memory_mb("workers")),
        }

    def _ramp(self, hosts: ManyHosts) -> None:
        """Wait until each slot has had a few runs on average, or for as long as is allowed."""
        since, deadline = _now(), time.monotonic() + RAMP_LIMIT_SECONDS
        enough = hosts.workers * SLOTS * RAMP_RUNS_PER_SLOT
        while _runs(since, _now()) < enough and time.monotonic() < deadline:
            time.sleep(0.5)

    def _feed(self) -> None:
        """Send as many events as are missing from what is to be queued."""
        rows(_SEND, self.event, self.queued - self._queued())

    def _queued(self) -> int:
        return number(
            "SELECT count(*) FROM runyard.invocations WHERE function = %s"
            " AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL",
            self.function,
        )

    def _ended(self, since: str, until: str) -> int:
        """Invocations that ended in between; none may have failed."""
        [row] = rows(
            "SELECT count(*) AS ended, count(*) FILTER (WHERE status <> 'succeeded') AS failed"
            " FROM runyard.invocations WHERE function = %s"
            " AND finished_at > %s::timestamptz AND finished_at <= %s::timestamptz",
            self.function,
            since,
            until,
        )
        assert not row["failed"], f"{row['failed']} events have failed"
        return int(row["ended"])

    def _forget_rest(self) -> None:
        """Delete what is queued, and wait until the workers have nothing left."""
        rows(
            "WITH queued AS (DELETE FROM runyard.invocations"
            " WHERE function = %s AND status = 'queued' RETURNING 1)"
            " SELECT count(*) FROM queued",
            self.function,
        )
        wait_for(
            lambda: (
                not number(
                    "SELECT count(*) FROM runyard.batches WHERE status IN ('claimed', 'running')"
                )
            ),
            "a run has not ended",
        )


FORMS = {
    "workers": Form("bench/alone", "waits_alone", 2_000, (1, 2, 4, 8)),
    "workers_batched": Form("bench/together", "waits_together", 20_000, (1, 2, 4, 8)),
}


def _now() -> str:
    """The database's time, by which invocations end."""
    [row] = rows("SELECT clock_timestamp()::text AS at")
    return str(row["at"])


def _runs(since: str, until: str) -> int:
    return number(
        "SELECT count(*) FROM runyard.batches WHERE status = 'finished'"
        " AND finished_at > %s::timestamptz AND finished_at <= %s::timestamptz",
        since,
        until,
    )
