"""`runyard init` and `runyard add`: a new project, Runyard in an existing one, a new function."""

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo
from runyard.errors import InvalidInput, RunyardError
from runyard.settings import settings

if TYPE_CHECKING:
    from runyard.cli.scaffold import EventOfFunction


@click.command()
@click.argument("name", required=False)
@click.option(
    "--into",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of a Dagster project that exists, to which Runyard is added.",
)
@click.option(
    "--code", help="With --into: the module with the project's Definitions, if it is not found."
)
@reported
def init(name: str | None, into: Path | None, code: str | None) -> None:
    """Make a new project in the folder NAME.

    NAME may be `.` for the current folder. No file is overwritten. The project has one function,
    its test, and all that `runyard up` needs. For mail, media, AI and data sync, start from
    Runyard's own repository instead.
    """
    if (name is None) == (into is None):
        raise InvalidInput("give a NAME for a new project, or --into FOLDER for one that exists")
    from runyard.cli import adoption
    from runyard.cli.scaffold import package_of, project_files, write_files

    if into is not None:
        echo(adoption.adopt(into.resolve(), code), lines=True)
        return
    if code is not None:
        raise InvalidInput("--code is for --into: a new project's code is in its own package")
    assert name is not None
    folder = Path(name).resolve()
    package = package_of(folder.name, folder)
    files = project_files(folder.name, package)
    write_files(folder, files)
    shown = os.path.relpath(folder)
    echo(f"Made the project {folder.name}: {len(files)} files in {shown}.")
    change = f"cd {shown} && " if shown != "." else ""
    echo(f"Run it:   {change}runyard up")
    echo('Send:     runyard send hello/requested --data \'{"name": "Ada"}\'')
    echo("Test it:  pytest")


@click.group()
def add() -> None:
    """Add a function to a project."""


@add.command("function")
@click.argument("name")
@click.option("--event", required=True, help="The event that starts it: shop/order.placed.")
@reported
def add_function(name: str, event: str) -> None:
    """Write the function NAME and its test.

    They go into the package `functions` beside the project's definitions, and into `tests`. An
    event that has a type in the catalog is used with its type.
    """
    from runyard.cli.scaffold import (
        check_event_name,
        check_function_name,
        function_files,
        write_files,
    )

    check_function_name(name)
    check_event_name(event)
    home = settings().home
    folder = _functions_folder(home)
    _check_not_taken(name, folder)
    package = ".".join([*settings().code.split(".")[:-1], "functions"])
    files = function_files(name, _event_of(event), package, os.path.relpath(folder, home))
    write_files(home, files)
    for path in files:
        echo(f"Wrote {path}")


def _functions_folder(home: Path) -> Path:
    """The package `functions` beside the project's definitions."""
    package = settings().code.rpartition(".")[0].replace(".", "/")
    places = [base / package / "functions" for base in (home, home / "src")]
    folder = next((place for place in places if (place / "__init__.py").exists()), None)
    if folder is None:
        missing = next((place for place in places if place.parent.is_dir()), places[0])
        raise RunyardError(
            f"there is no package {missing}: make it, with an __init__.py, and give it to"
            f" definitions(...) in {settings().code}"
        )
    return folder


def _check_not_taken(name: str, functions: Path) -> None:
    """Raise `RunyardError` when a module of the package defines something of this name."""
    for path in sorted(functions.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # `runyard check` reports it
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                raise RunyardError(
                    f"the name {name} is taken in {os.path.relpath(path)}:{node.lineno}: choose"
                    " another"
                )


def _event_of(name: str) -> "EventOfFunction":
    """The event, with its type if the project's catalog has one."""
    from runyard.cli.scaffold import EventOfFunction
    from runyard.events import catalog
    from runyard.gateway.dev.forms import example

    try:
        model = catalog.type_of(name)
    except Exception as error:
        raise RunyardError(
            f"the event types in {settings().catalog} do not load ({error}): see `runyard check`"
        ) from None
    if model is None:
        return EventOfFunction(name)
    return EventOfFunction(
        name, model.__module__, model.__qualname__, example(model.model_json_schema())
    )
