"""The files of a project: rendered from the templates in `project`, and never over others.

The code of a project is in one package that is named after it: `shop/definitions.py`,
`shop/events.py`, `shop/functions/`. Modules `events`, `functions` or `definitions` at the top level
would have to share these names with everything else that can be imported.
"""

import json
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runyard.errors import RunyardError
from runyard.text.storable import is_storable

_TEMPLATES = Path(__file__).with_name("project")
_WIDTH = 100
_LONG = 1_000_000
_RESERVED = {"dagster", "runyard", "test", "tests"}
# The files of a new project, by template. `package` is the name of the project's package.
_PROJECT = {
    "pyproject.toml.j2": "pyproject.toml",
    "README.md.j2": "README.md",
    "gitignore.j2": ".gitignore",
    "dagster.yaml.j2": "dagster.yaml",
    "workspace.yaml.j2": "workspace.yaml",
    "package/__init__.py.j2": "{package}/__init__.py",
    "package/definitions.py.j2": "{package}/definitions.py",
    "package/events.py.j2": "{package}/events.py",
    "package/functions/__init__.py.j2": "{package}/functions/__init__.py",
    "package/functions/hello.py.j2": "{package}/functions/hello.py",
    "tests/test_hello.py.j2": "tests/test_hello.py",
}
_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    autoescape=False,  # noqa: S701 (Python and TOML, not HTML)
)


@dataclass(frozen=True)
class EventOfFunction:
    """The event that starts a new function.

    Attributes
    ----------
    name
        The event's name.
    module, model
        Where the class of its type is, and its name; empty for an event without a type.
    example
        Data that fit the type.
    """

    name: str
    module: str = ""
    model: str = ""
    example: Mapping[str, object] | None = None


def render(template: str, **values: object) -> str:
    """Return a file of a project."""
    return _environment.get_template(template).render(values)


def project_files(name: str, package: str) -> dict[str, str]:
    """Return the files of a new project, by their path in its folder."""
    values = {
        "name": name,
        "package": package,
        "code": f"{package}.definitions",
        "runyard": version("runyard"),
    }
    return {
        path.format(package=package): render(template, **values)
        for template, path in _PROJECT.items()
    }


def package_of(name: str, folder: Path) -> str:
    """Return the name of the package of a project.

    Raises `RunyardError` for a name that gives none, or one that is taken.
    """
    package = re.sub(r"[-.]", "_", name).lower()
    if not re.fullmatch(r"[a-z]\w*", package, re.ASCII):
        raise RunyardError(
            f"{name!r} cannot be the name of a project: begin with a letter, and go on with"
            " letters, digits, hyphens and underscores"
        )
    if keyword.iskeyword(package):
        raise RunyardError(f"{package} is a keyword of Python: choose another name")
    if package in _RESERVED | sys.stdlib_module_names or _is_installed(package, folder):
        raise RunyardError(
            f"there is a package {package} already that Python would import instead: choose"
            " another name"
        )
    return package


def _is_installed(package: str, folder: Path) -> bool:
    """Whether a package of this name is found elsewhere than in the project or beside it."""
    own = {folder, folder.parent, Path.cwd()}
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() not in own]
    return PathFinder.find_spec(package, elsewhere) is not None


def function_files(
    function: str, event: EventOfFunction, package: str, folder: str
) -> dict[str, str]:
    """Return the module of a new function and that of its test, by their path in the project.

    `package` is the one with the functions, in the `folder`.
    """
    values = {
        "function": function,
        "functions": package,
        "event": event.name,
        "module": event.module,
        "model": event.model,
        "data": _literal(event.example or {}, len("DATA: dict[str, object] = ")),
        "step": "handle" if function != "handle" else "handle_event",
    }
    return {
        f"{folder}/{function}.py": render("function.py.j2", **values),
        f"tests/test_{function}.py": render("test_function.py.j2", **values),
    }


def _literal(value: object, column: int, indent: int = 0) -> str:
    """A JSON value as Python that begins at a column, formatted as Ruff does it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, Mapping | list):
        return repr(value)
    inner = indent + 4
    if isinstance(value, Mapping):
        keys = [f"{json.dumps(key, ensure_ascii=False)}: " for key in value]
        members: list[tuple[str, object]] = list(zip(keys, value.values(), strict=True))
    else:
        members = [("", member) for member in value]
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    flat = ", ".join(f"{key}{_literal(member, -_LONG)}" for key, member in members)
    if column + len(flat) + 2 <= _WIDTH or not members:
        return f"{opening}{flat}{closing}"
    lines = [
        f"{' ' * inner}{key}{_literal(member, inner + len(key) + 1, inner)},\n"
        for key, member in members
    ]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def check_function_name(function: str) -> None:
    """Raise `RunyardError` for a name that no Python function in a module can have."""
    if not re.fullmatch(r"[a-z]\w*", function, re.ASCII) or keyword.iskeyword(function):
        raise RunyardError(
            f"{function!r} cannot be the name of a function: begin with a lower-case letter, and"
            " go on with letters, digits and underscores"
        )


def check_event_name(event: str) -> None:
    """Raise `RunyardError` for an event's name that cannot stand in the source of a function."""
    if not event or not event.isprintable() or not is_storable(event) or set(event) & set('"\\{}'):
        raise RunyardError(
            f"{event!r} cannot be the name of an event here: write it like shop/order.placed"
        )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files; raises `RunyardError`, before it writes any, when one is there already."""
    if taken := [path for path in files if (folder / path).exists()]:
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        raise RunyardError(
            f"in {folder} there is already {', '.join(taken[:3])}{more}, and nothing is"
            " overwritten: choose another name or folder"
        )
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunyardError(f"cannot write to {folder}: {error.strerror}") from None
