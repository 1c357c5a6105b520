"""Commands in a folder that holds no project: one line that says so, and nothing left behind."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from runyard.cli.main import main
from runyard.settings import settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, with an environment that says nothing else of a project."""
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    monkeypatch.setenv("RUNYARD_CODE", "kiosk.definitions")
    for name in ("DAGSTER_HOME", "RUNYARD_DATA_DIR", "RUNYARD_POSTGRES_DIR", "DATABASE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    with patch.dict(os.environ):  # commands set variables for Dagster
        yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


COMMANDS = ["up", "daemon", "worker", "web", "code-server", "doctor", "migrate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_a_project_is_refused_in_one_line(home: Path, command: str) -> None:
    result = run(command)
    assert (result.exit_code, result.output) == (
        1,
        f"runyard: there is no project in {home} (no dagster.yaml, and no module"
        " kiosk.definitions): make one with `runyard init NAME`, add Runyard to a Dagster project"
        " with `runyard init --into .`, or go to the project's folder\n",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left_behind_in_a_folder_without_a_project(home: Path, command: str) -> None:
    run(command)
    assert list(home.iterdir()) == []


def test_a_project_without_a_dagster_yaml_is_told_how_to_get_one(home: Path) -> None:
    (home / "kiosk").mkdir()
    (home / "kiosk/definitions.py").touch()
    assert "there is no dagster.yaml in" in run("up").output


@pytest.mark.parametrize("command", ["up", "worker", "code-server"])
def test_what_runs_the_code_needs_its_module(home: Path, command: str) -> None:
    (home / "dagster.yaml").touch()
    (home / "kiosk").mkdir()
    assert run(command).output == (
        f"runyard: there is no module kiosk.definitions in {home}: set RUNYARD_CODE, or code in"
        " [tool.runyard] of pyproject.toml, to the module with the project's Definitions\n"
    )


@pytest.mark.parametrize("command", ["daemon", "web"])
def test_a_project_without_a_workspace_is_told_how_to_get_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    settings.cache_clear()
    (home / "dagster.yaml").touch()
    assert run(command).output == (
        f"runyard: there is no {home}/workspace.yaml: write one with `runyard init --into .`, or"
        " give another with --workspace\n"
    )


def test_dagsters_own_folder_may_be_another_one(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = tmp_path_factory.mktemp("instance")
    (instance / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(instance))
    assert "there is no module kiosk.definitions" in run("worker").output


def test_whether_there_is_a_project_is_found_out_without_running_its_code(home: Path) -> None:
    (home / "kiosk").mkdir()
    (home / "kiosk/__init__.py").write_text("raise SystemExit('the code was run')")
    (home / "kiosk/definitions.py").touch()
    assert "there is no dagster.yaml in" in run("up").output
