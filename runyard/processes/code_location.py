"""The project's code location: loads it, and says in one line why it does not load."""

import gc
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from types import FrameType

from dagster import Definitions

import runyard
from runyard.dagster_adapter.sensors import check_io_managers
from runyard.errors import RunyardError
from runyard.settings import settings
from runyard.text.error_text import fit, message_of, type_of

_MOST_TEXT = 1_000
_OP = re.compile(r"\bop '(\w+)'")
_TWICE = re.compile(r"two functions (?:are )?called (\w+)")
_MISSING = re.compile(r"resource with key '(\w+)' required by .* was not provided")
_Place = tuple[str, int]
_RUNYARD = Path(runyard.__file__).resolve().parent


def load_code() -> Definitions:
    """Import the code location and resolve its jobs, so that no run has to.

    Raises `RunyardError` when there is no such module, or no `Definitions` in it, besides whatever
    the code raises.
    """
    with _no_garbage_collection():
        return _load()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: nearly all that is made stays.

    Looking through it again and again takes a third of the time of loading a thousand functions.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load() -> Definitions:
    code = settings().code
    try:
        module = import_module(code)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{code}.".startswith(f"{error.name}."):
            raise
        raise RunyardError(
            f"there is no module {code} in {settings().home}: set RUNYARD_CODE to the module with"
            " the project's Definitions, or start this in the project's folder"
        ) from None
    values = vars(module).items()
    found = {name: value for name, value in values if isinstance(value, Definitions)}
    if not found:
        raise RunyardError(
            f"the module {code} has no Definitions: write defs = definitions(...) in it"
        )
    if len(found) > 1:  # Dagster's code server would start, and serve nothing
        raise RunyardError(
            f"the module {code} has {len(found)} Definitions ({', '.join(found)}), and Dagster"
            " takes one: give the others to definitions(...), without names of their own"
        )
    [definitions] = found.values()
    for job in definitions.get_repository_def().get_all_jobs():
        job.get_job_snapshot_id()
    return definitions


def load_checked_code() -> Definitions:
    """Load the code as `load_code` does, and raise `InvalidOption` for a job that cannot run."""
    definitions = load_code()
    check_io_managers(definitions.get_repository_def())
    return definitions


@dataclass(frozen=True)
class CodeProblem:
    """Why the project's code does not load.

    Attributes
    ----------
    text
        The error in one line: `NameError: name 'Mailer' is not defined`.
    file
        The project's file in which it was raised, relative to the project's folder; None when no
        file of the project had a part in it.
    line
        The line in this file.
    """

    text: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return self.text
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.text}"


def problem_of(error: BaseException) -> CodeProblem:
    """Describe the error with which loading the code has failed, and find the project's line."""
    if isinstance(error, SyntaxError) and error.filename:
        text = fit(f"{type_of(error)}: {error.msg}", _MOST_TEXT)
        return CodeProblem(text, shown_path(Path(error.filename)), error.lineno)
    message = " ".join(message_of(error).split())
    if missing := _MISSING.search(message):  # Dagster names keys of other resources instead
        key = missing[1]
        message = f"{missing[0]}: give it as definitions(..., resources={{{key!r}: ...}})"
    kind = "" if isinstance(error, RunyardError) else type_of(error)
    text = fit(": ".join(part for part in (kind, message) if part), _MOST_TEXT)
    place = _place_of(error)
    if (twice := _TWICE.search(message)) and (other := _place_of_name(twice[1])) not in (
        None,
        place,
    ):
        text = f"{text}; the other one is in {other[0]}:{other[1]}" if other else text
    return CodeProblem(text) if place is None else CodeProblem(text, *place)


def _place_of(error: BaseException) -> _Place | None:
    """Where an error is: where the op that it names is written, or the project's line in it."""
    if (op := _OP.search(str(error))) and (place := _place_of_name(op[1])):
        return place
    for each in _with_causes(error):
        for frame, line in reversed(list(traceback.walk_tb(each.__traceback__))):
            if is_projects(frame):
                return shown_path(Path(frame.f_code.co_filename)), line
    return None


def _place_of_name(name: str) -> _Place | None:
    """Where the op, step or function of this name is written."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not _is_projects_file(Path(file)):
            continue
        for value in list(vars(module).values()):
            code = getattr(unwrap(value), "__code__", None) if callable(value) else None
            named = name in (getattr(value, "name", None), getattr(value, "__name__", None))
            if code is not None and named and _is_projects_file(Path(code.co_filename)):
                return shown_path(Path(code.co_filename)), code.co_firstlineno
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_projects(frame: FrameType) -> bool:
    """Whether a frame runs the project's own code, and not that of a package it uses."""
    return _is_projects_file(Path(frame.f_code.co_filename))


def _is_projects_file(path: Path) -> bool:
    path = path.resolve()
    return (
        path.is_file()  # there is none for code that was made from text
        and path.is_relative_to(settings().home.resolve())
        and not path.is_relative_to(_RUNYARD)
        and not path.is_relative_to(Path(sys.prefix).resolve())
        and "site-packages" not in path.parts
    )


def shown_path(path: Path) -> str:
    """A file's path, relative to the project's folder when it is in it."""
    with suppress(ValueError):
        path = path.resolve().relative_to(settings().home.resolve())
    return fit(str(path), _MOST_TEXT)
