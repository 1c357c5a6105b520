"""The table `[tool.runyard]` in a project's pyproject.toml: settings that belong to the code.

A key is the setting's variable without its prefix, in lower case: `port` for RUNYARD_PORT. The
environment overrides the file. Secrets are refused, because the file is kept with the code.
"""

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from runyard.errors import InvalidOption

NAME = "pyproject.toml"
TABLE = "[tool.runyard]"


def read_table(home: Path) -> Mapping[str, Any]:
    """Return the table of the project in this folder; empty when it has none.

    Raises `InvalidOption` for a file that cannot be read.
    """
    path = home / NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("runyard", {})
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidOption(f"{path} cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise InvalidOption(f"{path}: write {TABLE} as a table, not as a value")
    return table


def check_keys(
    home: Path, keys: Collection[str], known: Collection[str], variables: Mapping[str, str]
) -> None:
    """Raise `InvalidOption` for a key that is not `known`.

    `variables` are the settings that have no place in the file, each with its variable.
    """
    for key in keys:
        if key in known:
            continue
        if key in variables:
            advice = f"must not be in the file: set the environment variable {variables[key]}"
        elif near := get_close_matches(key.lower().replace("-", "_"), known, 1):
            advice = f"there is no such setting; did you mean {near[0]}?"
        else:
            advice = f"there is no such setting; there are {', '.join(sorted(known))}"
        raise InvalidOption(f"{home / NAME}, {TABLE} {key}: {advice}")
