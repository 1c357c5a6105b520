"""The settings as people see them: the reference page, and the list of `runyard doctor --settings`.

Every settings class gives a section, headed by the first line of its docstring: the engine's, then
those in the project's module (RUNYARD_SETTINGS).
"""

import textwrap
from collections.abc import Iterator
from inspect import cleandoc, get_annotations
from itertools import chain
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from runyard.settings import Settings, settings

_WIDTH = 100
_INTRODUCTION = """\
# Configuration

Runyard is configured by environment variables; nothing has to be set to try it. This page is
generated from the settings classes: after changing one, run
`runyard configuration > docs/configuration.md`.

`runyard doctor --settings` prints the values in effect, with secrets hidden. Two more variables are
read outside the settings: `DAGSTER_HOME`, which Dagster itself needs (`runyard env` prints it), and
`RUNYARD_TEST_DATABASE_URL`, the database of the [pytest plugin](testing.md).
"""


def reference() -> str:
    """The reference of all settings as Markdown."""
    return "\n".join([_INTRODUCTION, *(_section(section) for section in sections())])


def values() -> Iterator[tuple[str, str]]:
    """Every variable with the value in effect, secrets hidden."""
    for settings_class in _classes():
        current = settings() if settings_class is Settings else settings_class()
        for section in _sections_of(settings_class):
            for name, field in own_fields(section).items():
                yield variable(section, name, field), str(getattr(current, name))


def variable(section: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """The environment variable of a field."""
    match field.validation_alias:
        case str() as alias:
            return alias
        case AliasChoices(choices=[str() as alias, *_]):
            return alias
    return f"{section.model_config.get('env_prefix', '')}{name}".upper()


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
    title, _, text = cleandoc(section.__doc__ or "").partition("\n")
    entries = [_entry(section, name, field) for name, field in own_fields(section).items()]
    return "\n\n".join([f"## {title.rstrip('.')}", *filter(None, [text.strip()]), *entries]) + "\n"


def _entry(section: type[BaseSettings], name: str, field: FieldInfo) -> str:
    default = _default(field)
    entry = f"- **`{variable(section, name, field)}`**{default}: {field.description}"
    return textwrap.fill(
        entry, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _default(field: FieldInfo) -> str:
    """The default, unless the description explains how it is computed."""
    default: Any = field.default
    if field.default_factory is not None or default is None or default == "":
        return ""
    return f" (default: `{default}`)"
