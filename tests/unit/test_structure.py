"""What must stay true of the source: imports go one way, SQL stands in one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each may import those to its right only.
LAYERS = ["schedules", "sensors", "assets", "pipelines", "resources", "runyard"]
# The catalog and the templates are on the door's side of the ops; the one Definitions and the demo stand above everything.
TOP = {"pipelines/definitions.py", "pipelines/demo.py"}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    above = set(LAYERS[: LAYERS.index(layer)])
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in sorted((ROOT / layer).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in TOP
        for name in _imports(path)
        if name.split(".")[0] in above | {"tests", "benchmarks"}
    ]
    assert wrong == []


def test_sending_does_not_import_dagster() -> None:
    import subprocess
    import sys

    code = "import sys, runyard, pipelines.events; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_families_know_nothing_of_the_engines_tables() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for layer in ("pipelines", "resources", "sensors", "schedules", "assets")
        for path in (ROOT / layer).rglob("*.py")
        if any(f"runyard.{table}" in path.read_text(encoding="utf-8") for table in ("invocations", "steps ", "batches", "waits"))
    ]
    assert wrong == []


def test_every_query_says_which_index_it_uses() -> None:
    blocks = [block for path in (ROOT / "runyard/store").glob("*.sql") for block in path.read_text(encoding="utf-8").split("-- name: ")[1:]]
    assert len({block.partition("\n")[0] for block in blocks}) == len(blocks)
    for block in blocks:
        name, _, rest = block.partition("\n")
        comment = "".join(line for line in rest.splitlines() if line.startswith("--"))
        assert "(by " in comment or "scanned)" in comment, f"{name} names no index"
