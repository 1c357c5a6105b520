"""What is wrong with a project's code, found out by loading it, without a database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from runyard.events import INTERNAL_PREFIXES, catalog
from runyard.functions import registry
from runyard.processes.code_check import WEB_MODULES
from runyard.processes.code_location import load_checked_code, problem_of
from runyard.settings import settings

# The settings that name optional modules.
_MODULES = (*WEB_MODULES, "settings", "migrations")


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
        The names of the functions, and of the events with a type in the catalog.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


def examine_code() -> ProjectCheck:
    """Load the project's code into this process, and return what is wrong with it."""
    in_catalog = _events_of_catalog()  # before other modules add to it
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
    notes = (*_misspelt_triggers(), *_types_elsewhere(in_catalog))
    return ProjectCheck((), notes, tuple(each.name for each in functions), in_catalog)


def _events_of_catalog() -> tuple[str, ...]:
    """The events that have a type where only the catalog is loaded, as in processes that send."""
    try:
        return tuple(catalog.names())
    except (Exception, SystemExit):
        return ()  # reported by `_loading_problems`


def _loading_problems() -> Iterator[str]:
    """What is wrong with each module that the settings name."""
    for name in _MODULES:
        try:
            _load(name)
        except (Exception, SystemExit) as error:
            yield str(problem_of(error))
    try:
        load_checked_code()
    except (Exception, SystemExit) as error:
        yield str(problem_of(error))


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
            yield f"the type of {name} has no JSON Schema: {problem_of(error).text}"


def _misspelt_triggers() -> Iterator[str]:
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


def _types_elsewhere(in_catalog: Sequence[str]) -> Iterator[str]:
    """The event types in modules that the catalog does not import."""
    module = settings().catalog
    fix = (
        f"write it in {module}, or import it there"
        if module
        else 'name its module, as in catalog = "my_events" in [tool.runyard]'
    )
    for name in catalog.names():
        if name not in in_catalog and (model := catalog.type_of(name)):
            yield (
                f"{model.__name__}, the type of {name}, is in {model.__module__} and not in the"
                " catalog: such events are not checked when they are sent, and `runyard types`"
                f" leaves them out; {fix}"
            )
