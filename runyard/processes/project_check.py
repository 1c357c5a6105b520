"""What is wrong with a project's code, found out by loading it, without a database."""

import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import unwrap
from pathlib import Path

import runyard
from runyard.dagster_adapter.sensors import check_io_managers
from runyard.errors import RunyardError
from runyard.events import INTERNAL_PREFIXES, catalog
from runyard.functions import registry
from runyard.processes.workers import load_code
from runyard.settings import settings
from runyard.text.error_text import message_of, type_of

# The settings that name optional modules.
_MODULES = ("catalog", "http_extensions", "pages", "checks", "report", "settings", "migrations")
_OP = re.compile(r"\bop '(\w+)'")
_TWICE = re.compile(r"two functions are called (\w+)")
_RUNYARD = Path(runyard.__file__).resolve().parent


@dataclass(frozen=True)
class ProjectCheck:
    """What was found.

    Attributes
    ----------
    problems
        What keeps the project from running, each with its file and line where there is one.
    notes
        What is allowed, but looks like a mistake.
    functions, events
        The names of the functions and of the event types.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


def check_code() -> ProjectCheck:
    """Load the project's code into this process, and return what is wrong with it."""
    problems = list(dict.fromkeys([*_loading_problems(), *_schema_problems()]))
    if problems:
        return ProjectCheck(tuple(problems))
    functions = registry.functions()
    if not functions:
        return ProjectCheck(
            (
                f"{settings().code} has no functions: write one with @function(...), and give it to"
                " definitions(...)",
            )
        )
    return ProjectCheck(
        (), tuple(_notes()), tuple(each.name for each in functions), tuple(catalog.names())
    )


def _loading_problems() -> Iterator[str]:
    """What is wrong with each module that the settings name."""
    for name in _MODULES:
        try:
            _load(name)
        except (Exception, SystemExit) as error:
            yield _located(error)
    try:
        if _exists(settings().code):
            check_io_managers(load_code().get_repository_def())
    except (Exception, SystemExit) as error:
        yield _located(error)


def _exists(code: str) -> bool:
    """Import the code location; raises `RunyardError` when it has no Definitions."""
    from dagster import Definitions

    module = import_module(code)
    if not any(isinstance(value, Definitions) for value in vars(module).values()):
        raise RunyardError(f"{code} has no Definitions: write defs = definitions(...) in it")
    return True


def _load(name: str) -> None:
    """Import an optional module; the catalog through itself, so that it knows what it has."""
    if name == "catalog":
        catalog.load()
    else:
        settings().project_module(name)


def _schema_problems() -> Iterator[str]:
    """The event types of which no JSON Schema can be made."""
    try:
        names = catalog.names()
    except Exception:
        return  # reported by `_loading_problems`
    for name in names:
        try:
            catalog.schema(name)
        except Exception as error:
            yield f"the type of {name} has no JSON Schema: {_one_line(error)}"


def _notes() -> Iterator[str]:
    """The triggers without a type in the catalog whose names are nearly those of one."""
    names = catalog.names()
    for function in registry.functions():
        for rule in function.rules:
            if rule.wildcard or rule.event in names or rule.event.startswith(INTERNAL_PREFIXES):
                continue
            if near := get_close_matches(rule.event, names, 1, 0.85):
                yield (
                    f"{function.name} is started by {rule.event}, which has no type in the catalog;"
                    f" did you mean {near[0]}?"
                )


def _located(error: BaseException) -> str:
    """An error as one line, with the place in the project's code that it is about."""
    place = _place_of(error)
    text = _one_line(error)
    if (twice := _TWICE.search(text)) and (other := _place_of_name(twice[1])) not in ("", place):
        text = f"{text}; the other one is in {other}"
    return f"{place}: {text}" if place else text


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{type_of(error)}: {error.msg}"
    message = " ".join(message_of(error).split())
    return message if isinstance(error, RunyardError) else f"{type_of(error)}: {message}"


def _place_of(error: BaseException | None) -> str:
    """The file and line of an error: where it is, where it was raised, or what it names."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename))}:{error.lineno}"
    if error is None:
        return ""
    if (op := _OP.search(str(error))) and (place := _place_of_name(op[1])):
        return place
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if _is_projects(Path(frame.filename)):
            return f"{_shown(Path(frame.filename))}:{frame.lineno}"
    return _place_of(error.__cause__ or error.__context__)


def _place_of_name(name: str) -> str:
    """Where the op, step or function of this name is written; empty when it is not found."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not _is_projects(Path(file)):
            continue
        for value in vars(module).values():
            code = getattr(unwrap(value), "__code__", None) if callable(value) else None
            named = name in (getattr(value, "name", None), getattr(value, "__name__", None))
            if code is not None and named and _is_projects(Path(code.co_filename)):
                return f"{_shown(Path(code.co_filename))}:{code.co_firstlineno}"
    return ""


def _is_projects(path: Path) -> bool:
    """Whether a file is the project's own, and not that of an installed package."""
    path = path.resolve()
    return (
        path.is_file()  # there is none of code that was made from text
        and path.is_relative_to(settings().home.resolve())
        and not path.is_relative_to(_RUNYARD)
        and not path.is_relative_to(Path(sys.prefix).resolve())
        and "site-packages" not in path.parts
    )


def _shown(path: Path) -> str:
    path = path.resolve()
    home = settings().home.resolve()
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)
