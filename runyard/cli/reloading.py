"""Reloads the project's code in a running stack whenever a file of it changes, if it loads."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from runyard.cli.terminal import echo
from runyard.engine.backoff import Backoff
from runyard.processes.code_check import CodeChecker, remember_problem, remembered_problem
from runyard.processes.code_location import CodeProblem
from runyard.processes.stack import Stack
from runyard.processes.watched_code import code_changes

_RUNYARD = Path(__file__).resolve().parents[1]
# The longest pause before files are watched again, after watching or reloading has failed.
_MAX_WAIT = 10.0
_JOIN_SECONDS = 3.0


class Reloader:
    """A thread that restarts what runs the project's code; it works inside of its context."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stopped = threading.Event()
        self._checker = CodeChecker()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def join(self) -> None:
        """Wait for the end of the thread and of its processes, once the context has ended."""
        self._checker.close()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        self._checker.close()

    def _run(self) -> None:
        backoff = Backoff(logging.getLogger("runyard"), "cannot load changed code", _MAX_WAIT)
        while not self._stopped.is_set():
            try:
                for paths in code_changes(self._stopped):
                    if self._stopped.is_set():
                        return
                    self._take(paths)
                    backoff.succeeded()
            except Exception as error:
                self._stopped.wait(backoff.failed(error))

    def _take(self, paths: Sequence[Path]) -> None:
        if not paths:
            self._checker.prepare()
            return
        if any(path.is_relative_to(_RUNYARD) for path in paths):
            self._checker.start_over()
        names = sorted({path.name for path in paths})
        echo(f"Changed: {', '.join(names[:5])}. Loading the code ...")
        problem = self._checker.check().problem
        if not self._stopped.is_set():
            self._reload_unless(problem)

    def _reload_unless(self, problem: CodeProblem | None) -> None:
        """Restart the code server and the worker, or say why the code that runs stays as it is."""
        was_bad = remembered_problem() is not None
        remember_problem(problem)
        if problem is not None:
            echo(f"The code does not load: {problem}", err=True)
            echo("The last version that loaded keeps running until the code loads again.", err=True)
            return
        echo("The code loads again. Restarting it ..." if was_bad else "Restarting it ...")
        self._stack.reload()
