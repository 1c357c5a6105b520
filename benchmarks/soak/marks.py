"""The marks that steps leave in a file: when a step began, when it had its effect, and where."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = "SOAK_FOLDER"


@dataclass
class Execution:
    """One execution of a step by a process; times are seconds since 1970.

    `effect` is None when it had none.
    """

    key: str
    step: str
    pid: int
    begin: float
    effect: float | None = None


def folder() -> Path:
    """The folder of the marks."""
    return Path(os.environ[FOLDER])


def leave(what: str, step: str, key: str) -> None:
    """Leave a mark.

    A line appended by one write is complete, whoever else writes and whatever is killed.
    """
    file = os.open(folder() / "marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{time.time():.6f} {what} {step} {key} {os.getpid()}\n".encode())
    finally:
        os.close(file)


class Marks:
    """All marks so far; each call reads those that were added since the last."""

    def __init__(self) -> None:
        self._path = folder() / "marks"
        self._read = 0
        self._found: list[Execution] = []
        self._open: dict[tuple[str, str, int], Execution] = {}
        self._lock = threading.Lock()

    def executions(self) -> list[Execution]:
        """All executions so far, in the order of their begin."""
        with self._lock:
            if self._path.exists():
                with self._path.open() as file:
                    file.seek(self._read)
                    for line in file:
                        self._take(line)
                    self._read = file.tell()
            return list(self._found)

    def _take(self, line: str) -> None:
        at, what, step, key, pid = line.split()
        place = (key, step, int(pid))
        if what == "begin":
            self._open[place] = Execution(key, step, int(pid), float(at))
            self._found.append(self._open[place])
        else:
            self._open.pop(place).effect = float(at)
