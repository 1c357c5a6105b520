"""The logs of a step in a run, one for each invocation, and when they are saved.

A log is saved with the result of its step. Those of steps that run for longer are also saved about
once a second, by one thread of the process: they show while the step runs, and are left of a step
that is ended with its process. A log is written as a whole, so writing it again changes nothing.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import psycopg

from runyard.engine.background_saver import BackgroundSaver
from runyard.engine.items import Item, log_fields
from runyard.engine.step_log import StepLog, current
from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all
from runyard.text.error_text import fit
from runyard.text.json_lines import working_on

# Of an invocation, as many of the latest as are read at once.
_MOST_LOGS = 1_000
_MOST_BYTES = 16 * 1024 * 1024
_log = logging.getLogger("runyard.engine.step_logs")
_saver = BackgroundSaver("runyard-step-logs", "the logs of steps", 1.0)


class StepLogs:
    """The logs of a step.

    Parameters
    ----------
    function
        The function's name.
    batch_id, run_id, step
        The batch, its run, and the step's name.
    """

    def __init__(self, function: str, batch_id: str, run_id: str, step: str) -> None:
        self._batch = batch_id
        self._run = run_id
        self._step = step
        self._at_hand: dict[str, object] = {"function": function, "run": run_id, "step": step}
        self._logs: dict[int, StepLog] = {}
        self._saving = threading.Lock()
        # A signal may interrupt a step that prints, and print too.
        self._adding = threading.RLock()

    def begin(self, *items: Item) -> None:
        """Let what this thread or task prints and logs from now on be of these items."""
        attempts = {item.id: item.attempt for item in items}
        # The condition of a step and the step itself have one log.
        log = self._logs.get(items[0].id) if len(items) == 1 else None
        working_on.set(partial(self._log_fields, items))
        current.set(log or StepLog(attempts, self._run, self._adding, self._note_change))

    def end(self) -> None:
        """Let what this thread or task prints and logs be of no invocation any more."""
        working_on.set(dict)
        current.set(None)

    def _log_fields(self, items: Sequence[Item]) -> Mapping[str, object]:
        return {**self._at_hand, **(log_fields(items[0]) if len(items) == 1 else {})}

    def save(self, invocations: Collection[int] | None = None) -> None:
        """Save the logs of these invocations, or all. A log that cannot be saved fails nothing."""
        try:
            self._save(invocations, lambda log: log.changed or log.has_dropped)
        except (psycopg.Error, DatabaseUnavailable) as error:
            _saver.add(self)
            _log.warning("a log of step %s is not saved: %s", self._step, fit(str(error)))

    def save_changes(self) -> None:
        """Save the logs with lines that are not saved yet; raises what the database does.

        How many lines a full log has dropped by then is saved at the end of the step: otherwise a
        step that prints on and on would have its whole log written every second.
        """
        self._save(None, lambda log: log.changed)

    def _save(self, invocations: Collection[int] | None, is_due: Callable[[StepLog], bool]) -> None:
        if not self._logs:
            return
        # Held meanwhile, so that no older state of a log is written over a newer one.
        with self._saving:
            chosen = list(self._logs) if invocations is None else invocations
            logs = [log for each in chosen if (log := self._logs.get(each)) is not None]
            changed = list(dict.fromkeys(log for log in logs if is_due(log)))
            try:
                self._write(changed)
            except BaseException:
                for log in changed:
                    log.changed = True
                raise

    def _write(self, logs: Sequence[StepLog]) -> None:
        rows = [row for log in logs for row in log.rows()]
        if not rows:
            return
        with database.connection() as connection:
            fetch_all(
                connection,
                "record_logs",
                batch=self._batch,
                run=self._run,
                step=self._step,
                invocations=[row.invocation_id for row in rows],
                attempts=[row.attempt for row in rows],
                started=[row.started_at for row in rows],
                lines=[row.lines for row in rows],
                dropped=[row.dropped for row in rows],
            )

    def _note_change(self, log: StepLog) -> None:
        for invocation in log.attempts:
            self._logs[invocation] = log
        _saver.add(self)


def latest_logs(
    connection: Connection, invocation: int, most: int = _MOST_LOGS, most_bytes: int = _MOST_BYTES
) -> list[Row]:
    """The latest logs of an invocation, the oldest first: rows of the query `latest_logs`."""
    return fetch_all(connection, "latest_logs", invocation=invocation, limit=most, bytes=most_bytes)
