"""The logs of a step in a run, one for each invocation, and when they are saved.

A log is saved with the result of its step. Those of steps that run for longer are also saved about
once a second, by one thread of the process: they show while the step runs, and are left of a step
that is ended with its process. A log is written as a whole, so writing it again changes nothing.
"""

import logging
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import psycopg

from runyard.engine.items import Item, log_fields
from runyard.engine.step_log import StepLog, current
from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.error_text import fit
from runyard.text.json_lines import working_on

_INTERVAL_SECONDS = 1.0
_log = logging.getLogger("runyard.engine.step_logs")


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
        if not self._logs:
            return
        # Held meanwhile, so that no older state of a log is written over a newer one.
        with self._saving:
            chosen = list(self._logs) if invocations is None else invocations
            logs = [log for each in chosen if (log := self._logs.get(each)) is not None]
            changed = list(dict.fromkeys(log for log in logs if log.changed))
            if not changed:
                return
            try:
                self._write(changed)
            except (psycopg.Error, DatabaseUnavailable) as error:
                for log in changed:
                    log.changed = True
                _log.warning("a log of step %s is not saved: %s", self._step, fit(str(error)))

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


class _Saver:
    """The thread that saves the logs of steps while they run, started with the first of them."""

    def __init__(self) -> None:
        self._steps: weakref.WeakSet[StepLogs] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._added = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, logs: StepLogs) -> None:
        with self._lock:
            self._steps.add(logs)
            self._added.set()
            # A child process has no threads of its parent.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="runyard-step-logs", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while self._added.wait():
            pause.wait(_INTERVAL_SECONDS)
            with self._lock:
                self._added.clear()
                steps = list(self._steps)
                self._steps.clear()
            for logs in steps:
                logs.save()


_saver = _Saver()
