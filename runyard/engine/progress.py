"""The progress that steps report, stored at once for those who watch the invocation."""

import math
import time
from contextlib import suppress

from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.error_text import fit

# Nobody could read more frequent messages, and each is an INSERT.
_MIN_INTERVAL = 0.1
_MAX_TEXT = 500


class Reporter:
    """Stores the progress of one step in a run."""

    def __init__(self, batch_id: str, run_id: str, step: str) -> None:
        self._batch = batch_id
        self._run = run_id
        self._step = step
        self._last: dict[int, float] = {}

    def report(self, invocation: int, percent: float, text: str) -> None:
        """Store a message, unless the lease is lost. A database that is away fails no step."""
        now = time.monotonic()
        bounded = min(max(float(percent), 0.0), 100.0) if not math.isnan(percent) else 0.0
        if bounded < 100 and now - self._last.get(invocation, -1.0) < _MIN_INTERVAL:
            return
        self._last[invocation] = now
        clean = fit(text.replace("\0", ""), _MAX_TEXT)
        with suppress(DatabaseUnavailable), database.connection() as connection:
            fetch_all(
                connection,
                "report_progress",
                batch=self._batch,
                run=self._run,
                invocation=invocation,
                step=self._step,
                percent=bounded,
                text=clean,
            )
