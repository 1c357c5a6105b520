"""The settings as people see them: the reference page, and the list of `runyard doctor --settings`.

Every settings class gives a section: the engine's, then those in the project's module
(RUNYARD_SETTINGS). The first line of its docstring is the heading, up to a colon or semicolon.
"""

import os
import re
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from inspect import cleandoc, get_annotations
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from runyard import project_file
from runyard.settings import Settings, file_keys, settings
from runyard.settings import variable as variable_of

_WIDTH = 100
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_PREFIX = "RUNYARD_"
# How alike two names must be for one to be a misspelling of the other, from 0 to 1.
_SIMILAR = 0.8
_NOT_SETTINGS = {"RUNYARD_TEST_DATABASE_URL", "RUNYARD_KEY"}
_INTRODUCTION = """\
# Configuration

Runyard is configured by environment variables and by the project's `pyproject.toml`; nothing has
to be set to try it. This page is generated from the settings classes: after changing one, run
`runyard configuration > docs/configuration.md`.

Settings that belong to the code are kept with it, in the table `[tool.runyard]`. A key is the
variable's name without `RUNYARD_`, in lower case, and a path is relative to the file:

```toml
[tool.runyard]
code = "shop.definitions"
retention = "90d"
cors_origins = ["https://shop.example"]
```

{file}

`runyard doctor --settings` prints the values in effect, with secrets hidden. Three variables are
not settings: `DAGSTER_HOME`, which Dagster itself needs (`runyard env` prints it),
`RUNYARD_TEST_DATABASE_URL`, the database of the [pytest plugin](testing.md), and `RUNYARD_KEY`,
from which the examples of HTTP clients take their [API key](http/keys.md).
"""
_FILE = (
    "The environment overrides the file. The file is that of `RUNYARD_HOME`, or of the working"
    " directory. A key that does not exist is an error. So are secrets, which do not belong with"
    " the code: {secrets}. The settings of the project's own classes come from the environment"
    " only."
)


def reference() -> str:
    """The reference of all settings as Markdown."""
    introduction = _INTRODUCTION.replace("{file}", _wrapped(_FILE.format(secrets=_secrets())))
    return "\n".join([introduction, *(_section(section) for section in sections())])


def _secrets() -> str:
    """The engine's settings that pyproject.toml must not hold."""
    in_the_file = set(file_keys().values()) | {"home"}
    names = [
        f"`{variable(Settings, name, field)}`"
        for name, field in Settings.model_fields.items()
        if name not in in_the_file
    ]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def values() -> Iterator[tuple[str, str]]:
    """Every variable with the value in effect, secrets hidden."""
    for settings_class in _classes():
        try:
            current = settings_class()
        except ValidationError as error:
            yield settings_class.__name__, invalid(error)
            continue
        for section in _sections_of(settings_class):
            for name, field in own_fields(section).items():
                yield variable(section, name, field), _shown(getattr(current, name))


def misspelt() -> Iterator[str]:
    """What to say of variables that look like settings, but are none: a line for each.

    Others that begin with RUNYARD_ are the project's own.
    """
    known = {
        variable(section, name, field)
        for section in sections()
        for name, field in own_fields(section).items()
    } | _NOT_SETTINGS
    settings_names = [name.removeprefix(_PREFIX) for name in known if name.startswith(_PREFIX)]
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known:
            meant = get_close_matches(name.removeprefix(_PREFIX), settings_names, 1, _SIMILAR)
            if meant:
                yield f"{name} is not a setting, and is ignored: did you mean {_PREFIX}{meant[0]}?"


def invalid(error: ValidationError) -> str:
    """What is wrong with the settings, as one line with the variables but without their values."""
    return "; ".join(
        _problem(problem["loc"], problem["msg"].removeprefix("Value error, "))
        for problem in error.errors(include_url=False, include_input=False)
    )


def _problem(place: tuple[int | str, ...], message: str) -> str:
    """An error with the variable that it is about; one about several names them itself."""
    if not place:
        return message
    name = str(place[0])
    prefix = "RUNYARD_" if name in Settings.model_fields else ""
    named = f"{prefix}{name}".upper()
    keys = {field: key for key, field in file_keys().items()}
    if name in keys and named not in os.environ:
        return f"{project_file.NAME}, {project_file.TABLE} {keys[name]}: {message}"
    return message if message.startswith(named) else f"{named}: {message}"


def _shown(value: object) -> str:
    """A value for people, without the user and the password of a URL."""
    if value is None or value == []:
        return "not set"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _USER_IN_URL.sub("***@", text)


def variable(section: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """The environment variable of a field."""
    return variable_of(name, field, str(section.model_config.get("env_prefix", "")))


def sections() -> Iterator[type[BaseSettings]]:
    """The classes with settings of their own, in the order of the page."""
    return chain.from_iterable(map(_sections_of, _classes()))


def _classes() -> list[type[BaseSettings]]:
    return [Settings, *_project_classes()]


def _project_classes() -> list[type[BaseSettings]]:
    """The settings classes that the project's module defines and no other of them extends."""
    module = settings().project_module("settings")
    classes = [
        value
        for value in vars(module or object).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == getattr(module, "__name__", None)
    ]
    extended = {base for settings_class in classes for base in settings_class.__mro__[1:]}
    return [settings_class for settings_class in classes if settings_class not in extended]


def _sections_of(settings_class: type[BaseSettings]) -> list[type[BaseSettings]]:
    """The classes that a settings class is made of, in the order in which it names them."""
    parts = [base for base in settings_class.__mro__ if issubclass(base, BaseSettings)]
    return [part for part in parts if own_fields(part)]


def own_fields(section: type[BaseSettings]) -> dict[str, FieldInfo]:
    """The settings that a class declares itself."""
    own = get_annotations(section)
    return {name: field for name, field in section.model_fields.items() if name in own}


def _section(section: type[BaseSettings]) -> str:
    first, _, text = cleandoc(section.__doc__ or "").partition("\n")
    title, *more = re.split("[:;] ", first.removesuffix("."), maxsplit=1)
    paragraphs = [f"{about[0].upper()}{about[1:]}." for about in more]
    paragraphs += [text.strip()] if text.strip() else []
    entries = [_entry(section, name, field) for name, field in own_fields(section).items()]
    return "\n\n".join([f"## {title}", *map(_wrapped, paragraphs), *entries]) + "\n"


def _entry(section: type[BaseSettings], name: str, field: FieldInfo) -> str:
    default = _default(field)
    entry = f"- **`{variable(section, name, field)}`**{default}: {field.description}"
    return _wrapped(entry, indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _default(field: FieldInfo) -> str:
    """The default, unless the description explains how it is computed."""
    default: Any = field.default
    # A path is one of this machine, so the description says where it comes from.
    if field.default_factory is not None or default in (None, "") or isinstance(default, Path):
        return ""
    if isinstance(default, bool):
        default = str(default).lower()
    return f" (default: `{default}`)"
