"""Runs the contract tests on the oldest and the newest Dagster that pyproject.toml supports.

Each gets a virtual environment of its own in `.contract/`: the engine, pytest, and the versions of
the lock for all but Dagster. `python -m tests.contract oldest` runs one of the two.
"""

import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TESTS = sorted(ROOT.glob("tests/unit/test_dagster_contract*.py"))
_LOWER_BOUND = re.compile(r"^(dagster[\w-]*)>=([\d.]+),", re.MULTILINE)


def main(ends: Sequence[str]) -> int:
    """Run the tests on the given ends of the range, both by default; return 0 if all pass."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = _LOWER_BOUND.findall("\n".join(project["dependencies"]))
    requirements = {
        "oldest": [f"{name}=={version}" for name, version in bounds],
        "newest": [name for name, _ in bounds],
    }
    return max([_run(end, requirements[end]) for end in ends or requirements])


def _run(name: str, dagster: list[str]) -> int:
    """Run the tests on some releases of Dagster; return the exit code."""
    folder = ROOT / ".contract" / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(_locked_without_dagster())
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    packages = ["--editable", str(ROOT), "pytest", "pytest-xdist", "packaging", *dagster]
    subprocess.run(
        [*pip, "install", "--quiet", "--upgrade", "--constraint", constraints, *packages],
        check=True,
    )
    versions = subprocess.run(
        [*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True
    ).stdout
    print(f"{name}:", *re.findall(r"^dagster.*", versions, re.MULTILINE), flush=True)
    return subprocess.run([python, "-m", "pytest", "-n0", *_TESTS], cwd=ROOT).returncode


def _locked_without_dagster() -> str:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("dagster"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
