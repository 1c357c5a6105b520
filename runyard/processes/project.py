"""Whether there is a project in the project's folder, found out without loading its code."""

from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from runyard.errors import RunyardError
from runyard.project_file import TABLE
from runyard.settings import settings


def check_project(*, needs_code: bool = True, dagster_home: Path | None = None) -> None:
    """Raise `RunyardError` when there is no project to run.

    A process that runs the project's code needs its module and `dagster.yaml`; one that leaves the
    code to others (`needs_code=False`) needs `dagster.yaml` alone. Without that file, in the folder
    `dagster_home` (by default the project's), Dagster would make databases of its own there.
    """
    home, code = settings().home, settings().code
    instance = dagster_home or home
    has_dagster = (instance / "dagster.yaml").is_file()
    has_code = _is_there(code)
    if not has_dagster and not has_code:
        raise RunyardError(
            f"there is no project in {home} (no dagster.yaml, and no module {code}): make one with"
            " `runyard init NAME`, add Runyard to a Dagster project with `runyard init --into .`,"
            " or go to the project's folder"
        )
    if not has_dagster:
        raise RunyardError(
            f"there is no dagster.yaml in {instance}: write one with `runyard init --into .`, or"
            " set RUNYARD_HOME to the project's folder"
        )
    if needs_code and not has_code:
        raise RunyardError(
            f"there is no module {code} in {home}: set RUNYARD_CODE, or code in {TABLE} of"
            " pyproject.toml, to the module with the project's Definitions"
        )


def _is_there(module: str) -> bool:
    """Whether a module can be imported, as far as this can be told without running any code."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
        for name in rest:
            if spec is None or spec.submodule_search_locations is None:
                return False
            spec = PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    except (ImportError, ValueError):
        return False
    return spec is not None
