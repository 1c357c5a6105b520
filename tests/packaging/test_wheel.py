"""The wheel holds the engine and nothing else, and works on its own."""

import os
import subprocess
import zipfile
from email.parser import Parser
from pathlib import Path

import psycopg
import pytest

from tests.packaging.conftest import sources

PROJECT = ["assets", "definitions", "demo", "pipelines", "resources", "schedules", "sensors"]


@pytest.fixture(scope="module")
def database_url(server: str) -> str:
    """The URL of an empty database."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE packaging")
    return server.replace("/runyard?", "/packaging?")


def test_the_wheel_holds_every_file_of_the_engine_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources("runyard")


def test_the_metadata_names_the_licenses(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
        licenses = [
            name.rpartition("/")[2] for name in archive.namelist() if ".dist-info/licenses/" in name
        ]
    assert metadata["License-Expression"] == "Apache-2.0 AND 0BSD"
    assert sorted(licenses) == ["LICENSE", "idiomorph-LICENSE.txt"]


def run(program: Path, *arguments: str, folder: Path, **variables: str) -> str:
    """What a program of the new environment prints, run in a folder with no project in it."""
    completed = subprocess.run(
        [program, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def test_an_installed_wheel_sends_an_event(
    installed: Path, database_url: str, tmp_path: Path
) -> None:
    send = "import runyard; print(runyard.send('order/placed', {'number': 7}))"
    run(installed / "runyard", "migrate", folder=tmp_path, DATABASE_URL=database_url)
    run(installed / "python", "-c", send, folder=tmp_path, DATABASE_URL=database_url)
    listing = run(installed / "runyard", "events", folder=tmp_path, DATABASE_URL=database_url)
    assert "order/placed" in listing
    with psycopg.connect(database_url) as connection:
        events = connection.execute("SELECT name, data FROM runyard.events").fetchall()
    assert events == [("order/placed", {"number": 7})]


def test_runyard_is_the_only_importable_package_of_this_repository(
    installed: Path, tmp_path: Path
) -> None:
    find = (
        "import sys; from importlib.util import find_spec;"
        "print(*[name for name in sys.argv[1:] if find_spec(name)])"
    )
    names = [*PROJECT, "benchmarks", "runyard", "tests"]
    found = run(installed / "python", "-c", find, *names, folder=tmp_path)
    assert found.split() == ["runyard"]


def test_type_checkers_see_the_types(installed: Path, tmp_path: Path) -> None:
    find = "import runyard; print(runyard.__file__)"
    module = Path(run(installed / "python", "-c", find, folder=tmp_path).strip())
    assert installed.parent in module.parents
    assert module.with_name("py.typed").exists()
