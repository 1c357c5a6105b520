"""Whether the project's code loads: tried in a process of its own, with a short answer.

This process could not try it: modules that it has imported stay as they were, and code that does
not load would leave some of its modules behind. The other process loads the code as a worker does,
without a database, and ends with its answer, whatever the code does on import.

What kept the code from loading is remembered in the data folder until it loads again, for the dev
page and for whoever starts the stack.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from runyard.processes.code_location import (
    CodeProblem,
    is_projects,
    load_checked_code,
    problem_of,
    shown_path,
)
from runyard.settings import settings
from runyard.store.data_folder import data_folder
from runyard.text.error_text import fit

_CHECK_SECONDS = 60.0
# The settings that name the modules of the project which only the web process and commands import.
WEB_MODULES = ("catalog", "http_extensions", "pages", "checks", "report")
# How much longer than the code the process may take: to start, and to say where the code hangs.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class CodeCheck:
    """The answer of `check_code`: the problem, or None and the names of the functions, sorted."""

    problem: CodeProblem | None
    functions: tuple[str, ...] = ()


def check_code(seconds: float = _CHECK_SECONDS) -> CodeCheck:
    """Load the project's code in a new process, as it is on disk now.

    The process gets this one's environment, and the project's folder as its working directory. Code
    that does not load within `seconds` is a problem too. Nothing is raised for bad code, and what
    it prints is not shown.
    """
    return _Attempt().result(seconds)


class CodeChecker:
    """Checks code again and again, with a process that is ready for the next time.

    The process has imported Dagster, but nothing of the project. It is started by `prepare`, and
    ends with this one.
    """

    def __init__(self) -> None:
        self._next: _Attempt | None = None
        self._current: _Attempt | None = None
        self._used = False

    def check(self) -> CodeCheck:
        """Load the code as it is on disk now, like `check_code`."""
        self._current, self._next, self._used = self._next or _Attempt(), None, True
        try:
            return self._current.result(_CHECK_SECONDS)
        finally:
            self._current = None

    def prepare(self) -> None:
        """Get ready for another check, if there has been one: where nobody edits, none will be."""
        if self._used and self._next is None:
            self._next = _Attempt()

    def start_over(self) -> None:
        """Give up the process that is ready: Runyard itself has changed."""
        if self._next is not None:
            self._next.abandon()
            self._next = None

    def close(self) -> None:
        """End its processes, that of a check in another thread too, which then finds a problem."""
        self.start_over()
        if (current := self._current) is not None:
            current.kill()


class _Attempt:
    """A process that loads the code when `result` is called."""

    def __init__(self) -> None:
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the result)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._answer.fileno())],
            cwd=settings().home,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[self._answer.fileno()],
            start_new_session=True,  # Ctrl-C is no problem of the code
        )

    def result(self, seconds: float) -> CodeCheck:
        """Let the process load the code, and wait for what it answers, or for its end."""
        with self._answer, self._errors:
            try:
                self._process.communicate(f"{seconds}\n".encode(), seconds + _GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                return CodeCheck(CodeProblem(_too_long(seconds)))
            finally:
                self._process.kill()
                self._process.wait()
            answer, errors = _contents(self._answer), _contents(self._errors)
        if not answer:
            return CodeCheck(CodeProblem(_ended(self._process.returncode, errors)))
        values = json.loads(answer)
        problem = CodeProblem(**values["problem"]) if values["problem"] else None
        return CodeCheck(problem, tuple(values["functions"]))

    def kill(self) -> None:
        """End the process; whoever waits for its result gets one that says so."""
        self._process.kill()

    def abandon(self) -> None:
        """End the process without a result."""
        self.kill()
        self._process.communicate()
        self._answer.close()
        self._errors.close()


def _contents(file: IO[bytes]) -> bytes:
    """All that a file holds, of which another process has written some."""
    file.seek(0)
    return file.read()


def _too_long(seconds: float) -> str:
    return f"the code has not loaded within {seconds:g} s: something that it does on import hangs"


def _ended(code: int, output: bytes) -> str:
    last = output.decode(errors="replace").strip().rpartition("\n")[2]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return fit(f"loading the code ended its process with {how}" + (f": {last}" if last else ""))


def remember_problem(problem: CodeProblem | None) -> None:
    """Remember that the code does not load, or, with None, that it does."""
    if problem is None:
        _memory().unlink(missing_ok=True)
        return
    data_folder()
    draft = _memory().with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(problem)), encoding="utf-8")
    draft.replace(_memory())


def remembered_problem() -> CodeProblem | None:
    """Why the code on disk does not load, while older code is running; None when it loads."""
    try:
        return CodeProblem(**json.loads(_memory().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _memory() -> Path:
    return settings().data / "code-problem.json"


def _answer(to: int, problem: CodeProblem | None, functions: list[str]) -> None:
    """Write the answer, and end this process, whatever threads the code has started."""
    values = {"problem": problem and asdict(problem), "functions": functions}
    os.write(to, json.dumps(values).encode())
    os._exit(0)


def _report_hang(to: int, seconds: float, loading: int | None) -> None:
    frame: FrameType | None = sys._current_frames().get(loading or 0)
    stack = list(traceback.walk_stack(frame))
    place = next(((frame, line) for frame, line in stack if is_projects(frame)), None)
    problem = CodeProblem(_too_long(seconds))
    if place is not None:
        problem = CodeProblem(problem.text, shown_path(Path(place[0].f_code.co_filename)), place[1])
    _answer(to, problem, [])


def _load(to: int) -> None:
    """Load the code in this process, write to a file descriptor whether it loads, and end.

    It begins when it is told on standard input how many seconds this may take.
    """
    home = str(settings().home)
    if home not in sys.path:
        sys.path.insert(0, home)
    from runyard.functions import registry

    if not (seconds := sys.stdin.readline()):
        return
    arguments = (to, float(seconds), threading.main_thread().ident)
    limit = threading.Timer(float(seconds), _report_hang, arguments)
    limit.daemon = True
    limit.start()
    try:
        load_checked_code()
        for name in WEB_MODULES:
            settings().project_module(name)
        names = [function.name for function in registry.functions()]
    except BaseException as error:
        _answer(to, problem_of(error), [])
    else:
        _answer(to, None, names)


if __name__ == "__main__":
    _load(int(sys.argv[1]))
