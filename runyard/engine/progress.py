"""What steps say of how far they are: kept at once, beside their results, for those who watch the invocation."""

import math
import time
from contextlib import suppress

from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.error_text import fit

# More often nobody can read it, and each is an INSERT.
_LEAST_SECONDS = 0.1
_LONGEST = 500


class Reporter:
    """Keeps the progress of one step of a run."""

    def __init__(self, batch_id: str, run_id: str, step: str) -> None:
        self._batch = batch_id
        self._run = run_id
        self._step = step
        self._last: dict[int, float] = {}

    def report(self, invocation: int, percent: float, text: str) -> None:
        """Keep a message; under a lease that was lost nothing is kept. It never fails the step: progress is a courtesy."""
        now = time.monotonic()
        bounded = min(max(float(percent), 0.0), 100.0) if not math.isnan(percent) else 0.0
        if bounded < 100 and now - self._last.get(invocation, -1.0) < _LEAST_SECONDS:
            return
        self._last[invocation] = now
        said = fit(text.replace("\0", ""), _LONGEST)
        with suppress(DatabaseUnavailable), database.connection() as connection:
            fetch_all(
                connection,
                "report_progress",
                batch=self._batch,
                run=self._run,
                invocation=invocation,
                step=self._step,
                percent=bounded,
                text=said,
            )
