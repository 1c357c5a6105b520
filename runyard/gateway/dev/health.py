"""Is everything well: what the doctor says, how much waits and for how long, what the workers do."""

import threading
import time
from collections.abc import Sequence

from runyard.gateway.dev.page import Page, Values, Visit
from runyard.processes.checks import Check, all_checks
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one

_FRESH_SECONDS = 10.0
_PATIENT_SECONDS = 1.0
_SPAN_SECONDS = 10


class _Doctor:
    """What the checks have found last. They are made behind the page, anew when that is some seconds old: some of them ask services of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None
        self._found: Sequence[Check] | None = None
        self._looked_at = float("-inf")

    def found(self) -> Sequence[Check] | None:
        """All checks; None when they are made for the first time and that takes a while."""
        with self._lock:
            looking = self._looking
            if looking is None and time.monotonic() - self._looked_at > _FRESH_SECONDS:
                looking = self._looking = threading.Thread(
                    target=self._look, name="doctor", daemon=True
                )
                looking.start()
        if self._found is None and looking is not None:
            looking.join(_PATIENT_SECONDS)
        return self._found

    def _look(self) -> None:
        try:
            self._found = all_checks()
        finally:
            self._looked_at = time.monotonic()
            self._looking = None


_doctor = _Doctor()


def show(visit: Visit) -> Values:
    """The state of everything."""
    del visit
    with database.connection() as connection:
        queues = fetch_all(connection, "queues")
        batches = fetch_all(connection, "batches_under_way")
        workers = fetch_all(connection, "workers")
        pulse = fetch_one(connection, "pulse")
    assert pulse is not None
    waiting = [row for row in queues if row["status"] == "queued"]
    running = [batch for batch in batches if batch["status"] == "running"]
    doing = {
        worker["name"]: [batch for batch in running if _is_of(batch["worker"], worker["name"])]
        for worker in workers
    }
    return {
        "checks": _doctor.found(),
        "queues": queues,
        "queued": sum(row["count"] for row in waiting),
        "oldest": max((row["overdue"] for row in waiting), default=0.0),
        "rate": pulse["events"] / _SPAN_SECONDS,
        "workers": [
            {**worker, "alive": worker["silent"] < settings().lease_seconds} for worker in workers
        ],
        "doing": doing,
        "claimed": [batch for batch in batches if batch["status"] == "claimed"],
    }


def _is_of(process: str, worker: str) -> bool:
    """Whether a process that runs batches is one of a worker's: they are called after it, with a number of their own."""
    return process == worker or process.startswith(f"{worker}:")


PAGES = [Page("/health", "health", show, menu="Health", refresh_seconds=1.0)]
