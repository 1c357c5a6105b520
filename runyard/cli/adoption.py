"""`runyard init --into`: adds what Runyard needs to a Dagster project, and changes nothing else.

Files that are missing are written; in those that are there, text is only appended. What has to be
changed by hand is said: the project's Definitions and dependencies, and a `dagster.yaml` that is
there already.
"""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from runyard import project_file
from runyard.cli.scaffold import render
from runyard.errors import RunyardError

_DATA = ".runyard/"


def adopt(folder: Path, code: str | None) -> str:
    """Add Runyard to the project in a folder; return what was done and what remains to be done.

    `code` is the module with its Definitions; by default it is found. Raises `RunyardError` when it
    is not, and when a file cannot be read or written.
    """
    try:
        module = code or _code_of(folder)
        done = [
            _add_table(folder, module),
            _write(folder / "dagster.yaml", render("dagster.yaml.j2")),
            _write(folder / "workspace.yaml", render("workspace.yaml.j2", code=module)),
            _add_to_gitignore(folder / ".gitignore"),
        ]
        remaining = _by_hand(folder, module)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunyardError(f"cannot add Runyard to {folder}: {error}") from None
    lines = [line for line in done if line] or ["Nothing is missing here: no file was changed."]
    return "\n".join([*lines, "", *remaining])


def _code_of(folder: Path) -> str:
    """The module with the project's Definitions, as Dagster's own configuration names it."""
    module = _in_pyproject(_read_toml(folder)) or _in_workspace(folder / "workspace.yaml")
    if module is None and (folder / "definitions.py").exists():
        module = "definitions"
    if module is None:
        raise RunyardError(
            f"no Dagster project was found in {folder}: name the module with its Definitions, as in"
            " --code my_project.definitions, or make a new project with `runyard init NAME`"
        )
    return module


def _read_toml(folder: Path) -> dict[str, Any]:
    path = folder / project_file.NAME
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RunyardError(f"{path} cannot be read: {error}") from None


def _in_pyproject(pyproject: dict[str, Any]) -> str | None:
    """The module that `[tool.dg.project]` or `[tool.dagster]` names."""
    tool = pyproject.get("tool", {})
    project = tool.get("dg", {}).get("project", {})
    if "code_location_target_module" in project:
        return str(project["code_location_target_module"])
    if "root_module" in project:
        return f"{project['root_module']}.definitions"
    module = tool.get("dagster", {}).get("module_name")
    return None if module is None else str(module)


def _in_workspace(path: Path) -> str | None:
    """The first Python module that a workspace file loads."""
    if not path.exists():
        return None
    workspace = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for location in workspace.get("load_from", ()):
        module = location.get("python_module")
        if module is not None:
            return str(module["module_name"] if isinstance(module, dict) else module)
    return None


def _add_table(folder: Path, code: str) -> str:
    """Append `[tool.runyard]` to pyproject.toml, unless it is there."""
    if "runyard" in _read_toml(folder).get("tool", {}):
        return ""
    path = folder / project_file.NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    path.write_text(f'{before}{gap}{project_file.TABLE}\ncode = "{code}"\n', encoding="utf-8")
    return f"{'Added to' if before else 'Wrote'} {path.name}: {project_file.TABLE}, code = {code}"


def _write(path: Path, text: str) -> str:
    """Write a file that is not there."""
    if path.exists():
        return ""
    path.write_text(text, encoding="utf-8")
    return f"Wrote {path.name}"


def _add_to_gitignore(path: Path) -> str:
    """Append the data folder to .gitignore, unless it is there."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if _DATA.rstrip("/") in {line.strip().strip("/") for line in before.splitlines()}:
        return ""
    gap = "\n" if before and not before.endswith("\n") else ""
    path.write_text(f"{before}{gap}{_DATA}\n", encoding="utf-8")
    return f"{'Added to' if before else 'Wrote'} {path.name}: {_DATA}, the data folder"


def _by_hand(folder: Path, code: str) -> list[str]:
    return [
        f"In {code}, give your functions and the Definitions that are there to `definitions`:",
        "",
        "    from runyard import definitions",
        "",
        "    defs = definitions(your_function, Definitions(...))",
        "",
        "The module may hold one Definitions only: Dagster refuses a second one, also if imported.",
        "",
        *_dependency_by_hand(folder),
        *_dagster_yaml_by_hand(folder / "dagster.yaml"),
        "Then `runyard check` says whether all fits, and `runyard up` runs it.",
        "",
        "With Runyard's sections, dagster.yaml reads DATABASE_URL: from then on, Dagster's own"
        " commands need it in this folder:",
        "",
        "    runyard migrate   # starts the embedded database; not needed while `runyard up` runs",
        '    eval "$(runyard env)"',
        "    dagster dev -w workspace.yaml",
    ]


def _dependency_by_hand(folder: Path) -> list[str]:
    """What to add to the project's dependencies; nothing if pyproject.toml has it already."""
    requirements = _read_toml(folder).get("project", {}).get("dependencies", ())
    names = [re.split(r"[^\w.-]", str(requirement).strip())[0] for requirement in requirements]
    if "runyard" in {name.lower() for name in names}:
        return []
    return [f"Add runyard>={version('runyard')} to the dependencies of the project.", ""]


def _dagster_yaml_by_hand(path: Path) -> list[str]:
    """What a dagster.yaml of the project's own lacks, as text to be put into it."""
    needed = yaml.safe_load(render("dagster.yaml.j2"))
    present = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    sections = {
        name: value
        for name, value in needed.items()
        if name.endswith(("_storage", "launcher", "coordinator", "compute_logs"))
        and name != "local_artifact_storage"
        and present.get(name) != value
    }
    if not sections:
        return []
    text = yaml.dump(sections, Dumper=_Plain, sort_keys=False)
    instead = " (instead of storage)" if "storage" in present else ""
    return [
        f"dagster.yaml was there, and was left as it is. Put these sections into it{instead}:",
        "",
        *[f"    {line}" for line in text.splitlines()],
        "",
    ]


class _Plain(yaml.SafeDumper):
    """Writes values that occur several times in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Whether to write this value in full."""
        return True
