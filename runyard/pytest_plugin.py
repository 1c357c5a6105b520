"""The pytest plugin: the fixture `yard`, and the two it builds on, which a project may override.

pytest finds it wherever Runyard is installed. It imports nothing until a test uses a fixture.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runyard.testing import Yard


def pytest_configure(config: pytest.Config) -> None:
    """Let the project be that of the tests' root folder, whatever folder pytest is started in.

    What tests do is in no trace, unless they say so themselves.
    """
    os.environ.pop("RUNYARD_TRACES", None)
    file = config.rootpath / "pyproject.toml"
    if (
        not {"RUNYARD_HOME", "DAGSTER_HOME"} & os.environ.keys()
        and file.is_file()
        and "[tool.runyard]" in file.read_text(encoding="utf-8", errors="replace")
    ):
        os.environ["RUNYARD_HOME"] = str(config.rootpath)


@pytest.fixture(scope="session")
def runyard_database() -> Iterator[str]:
    """The URL of a migrated database for tests.

    It is RUNYARD_TEST_DATABASE_URL, or an embedded PostgreSQL that runs as long as the tests.
    """
    from runyard.processes.migrate import migrate
    from runyard.settings import settings
    from runyard.store import database
    from runyard.store.embedded import delete_embedded, start_embedded

    before = os.environ.get("DATABASE_URL")
    # A folder that the server's user can reach, which is not this one when this one is root.
    folder = Path(tempfile.mkdtemp(prefix="ry-", dir="/tmp"))
    try:
        url = os.environ.get("RUNYARD_TEST_DATABASE_URL") or start_embedded(folder)
        os.environ["DATABASE_URL"] = url
        settings.cache_clear()
        migrate()
        yield url
    finally:
        database.close_pool()
        if before is None:
            os.environ.pop("DATABASE_URL", None)
        else:
            os.environ["DATABASE_URL"] = before
        settings.cache_clear()
        delete_embedded(folder)


@pytest.fixture
def runyard_definitions() -> Any:
    """The Dagster definitions whose functions are tested: those of the code location."""
    from importlib import import_module

    from dagster import Definitions

    from runyard.settings import settings

    return next(
        value
        for value in vars(import_module(settings().code)).values()
        if isinstance(value, Definitions)
    )


@pytest.fixture
def yard(runyard_database: str, runyard_definitions: Any) -> "Iterator[Yard]":  # noqa: ARG001 (the database has to run)
    """A `Yard` with an empty event table and the functions of the definitions."""
    from runyard.testing import Yard, empty_event_table

    empty_event_table()
    with Yard(runyard_definitions) as yard:
        yield yard
