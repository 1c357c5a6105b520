"""The checks of `runyard doctor`, the queues, and what the workers are doing."""

import threading
import time
from collections.abc import Sequence

from runyard.gateway.dev.charts import SPANS, history
from runyard.gateway.dev.page import Page, Values, Visit
from runyard.processes.checks import Check, all_checks
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one

_FRESH_SECONDS = 10.0
_FIRST_ROUND_SECONDS = 1.0
_SPAN_SECONDS = 10


class _Doctor:
    """The latest checks.

    They run in a thread, again when they are some seconds old, for some of them call other
    services.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._latest: Sequence[Check] | None = None
        self._checked_at = float("-inf")

    def latest(self) -> Sequence[Check] | None:
        """All checks; None if the first round takes a while."""
        with self._lock:
            thread = self._thread
            if thread is None and time.monotonic() - self._checked_at > _FRESH_SECONDS:
                thread = threading.Thread(target=self._check, name="doctor", daemon=True)
                self._thread = thread
                thread.start()
        if self._latest is None and thread is not None:
            thread.join(_FIRST_ROUND_SECONDS)
        return self._latest

    def _check(self) -> None:
        try:
            self._latest = all_checks()
        finally:
            self._checked_at = time.monotonic()
            self._thread = None


_doctor = _Doctor()


def show(visit: Visit) -> Values:
    """The state of everything."""
    with database.connection() as connection:
        queues = fetch_all(connection, "queues")
        batches = fetch_all(connection, "open_batches")
        workers = fetch_all(connection, "workers")
        pulse = fetch_one(connection, "recent_event_count")
    assert pulse is not None
    waiting = [row for row in queues if row["status"] == "queued"]
    running = [batch for batch in batches if batch["status"] == "running"]
    doing = {
        worker["name"]: [batch for batch in running if _is_of(batch["worker"], worker["name"])]
        for worker in workers
    }
    return {
        "checks": _doctor.latest(),
        "queues": queues,
        "queued": sum(row["count"] for row in waiting),
        "oldest": max((row["overdue"] for row in waiting), default=0.0),
        "rate": pulse["events"] / _SPAN_SECONDS,
        "workers": [
            {**worker, "alive": worker["silent"] < settings().lease_seconds} for worker in workers
        ],
        "doing": doing,
        "history": history("", visit.query_value("span")),
        "spans": SPANS,
        "claimed": [batch for batch in batches if batch["status"] == "claimed"],
    }


def _is_of(process: str, worker: str) -> bool:
    """Whether a process belongs to a worker: its name is the worker's with a number of its own."""
    return process == worker or process.startswith(f"{worker}:")


PAGES = [Page("/health", "health", show, menu="Health", refresh_seconds=1.0)]
