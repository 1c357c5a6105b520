"""Rules for the source: imports go one way, and SQL is in one place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each may import those to its right only.
LAYERS = [
    "definitions",
    "demo",
    "schedules",
    "sensors",
    "assets",
    "pipelines",
    "resources",
    "runyard",
]
# The rooms of the engine; each may import itself and those to its left.
ROOMS = [
    "errors",
    "clock",
    "text",
    "syntax",
    "project_file",
    "settings",
    "tracing",
    "store",
    "events",
    "functions",
    "client",
    "engine",
    "apps",
    "dagster_adapter",
    "authoring",
    "processes",
    "gateway",
    "cli",
    "testing",
    "pytest_plugin",
]
# The rooms of the web process.
GATEWAY = ["http", "api", "dev", "app"]
ENGINE = sorted(
    path for path in (ROOT / "runyard").rglob("*.py") if path.parent != ROOT / "runyard"
)
ALONE = ("runyard/__init__.py", "runyard/__main__.py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from runyard import clock` is an import of runyard.clock.
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def _modules(layer: str) -> Iterator[Path]:
    alone = ROOT / f"{layer}.py"
    yield from [alone] if alone.exists() else sorted((ROOT / layer).rglob("*.py"))


def _room(parts: list[str], rooms: list[str]) -> int | None:
    return rooms.index(parts[0]) if parts and parts[0] in rooms else None


def _upward(folder: str, rooms: list[str]) -> list[tuple[str, str]]:
    """The imports in a folder that go up: the file, and what it imports."""
    base = folder.split("/")
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        room = _room(list(path.relative_to(ROOT / folder).with_suffix("").parts), rooms)
        if "migrations" in path.parts or (
            path.name in ("__init__.py", "__main__.py") and path.parent == ROOT / folder
        ):
            continue
        assert room is not None, f"{name} is in no room: put it into one, or name its room here"
        for imported in _imports(path):
            parts = imported.split(".")
            if parts[: len(base)] == base:
                other = _room(parts[len(base) :], rooms)
                if other is not None and other > room:
                    wrong.append((name, imported))
    return wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    above = set(LAYERS[: LAYERS.index(layer)])
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in _modules(layer)
        for name in _imports(path)
        if name.split(".")[0] in above | {"tests", "benchmarks"}
    ]
    assert wrong == []


def test_no_module_of_tests_imports_from_another() -> None:
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in _imports(path)
        if name.startswith("tests.") and ".test_" in name
    ]
    assert wrong == []


def test_no_room_of_the_engine_reaches_up() -> None:
    assert _upward("runyard", ROOMS) == []


def test_no_room_of_the_web_process_reaches_up() -> None:
    assert _upward("runyard/gateway", GATEWAY) == []


@pytest.mark.parametrize(
    "room", ["text", "syntax", "store", "functions", "engine", "apps", "client.py", "events.py"]
)
def test_below_the_adapter_nothing_imports_dagster(room: str) -> None:
    place = ROOT / "runyard" / room
    paths = [place] if place.is_file() else place.rglob("*.py")
    wrong = [
        (path.name, name) for path in paths for name in _imports(path) if name.startswith("dagster")
    ]
    assert wrong == []


def test_only_one_module_uses_private_names_of_dagster() -> None:
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for layer in LAYERS
        for path in _modules(layer)
        for name in _imports(path)
        if name.startswith("dagster._")
    ]
    assert {name for name, _ in wrong} == {"runyard/dagster_adapter/internals.py"}


def test_modules_of_a_room_import_each_other_in_no_circle() -> None:
    graph = {_name(path): {name for name in _known(path) if name != _name(path)} for path in ENGINE}
    while leaves := {name for name, imported in graph.items() if not imported & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert graph == {}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _known(path: Path) -> set[str]:
    """The modules of the engine that a module imports."""
    names = {_name(other) for other in ENGINE}
    imported = _imports(path)
    return {name for one in imported for name in (one, one.rpartition(".")[0]) if name in names}


def test_sending_does_not_import_dagster() -> None:
    code = "import sys, runyard, pipelines.events; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_families_know_nothing_of_the_engines_tables() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for layer in ("pipelines", "resources", "sensors", "schedules", "assets")
        for path in (ROOT / layer).rglob("*.py")
        if any(
            f"runyard.{table}" in path.read_text(encoding="utf-8")
            for table in ("invocations", "steps ", "batches", "waits")
        )
    ]
    assert wrong == []


def test_every_query_says_which_index_it_uses() -> None:
    blocks = [
        block
        for path in (ROOT / "runyard/store").glob("*.sql")
        for block in path.read_text(encoding="utf-8").split("-- name: ")[1:]
    ]
    assert len({block.partition("\n")[0] for block in blocks}) == len(blocks)
    for block in blocks:
        name, _, rest = block.partition("\n")
        lines = [line.lstrip("- ") for line in rest.splitlines() if line.startswith("--")]
        comment = " ".join(lines)
        assert "(by " in comment or "scanned)" in comment, f"{name} names no index"
