"""The words are tested with the kit that comes with Runyard, in a database of their own."""

from typing import Any

import pytest

from runyard.functions import registry
from tests.conftest import use_database


@pytest.fixture(scope="package")
def runyard_database(server: str) -> str:
    """The URL of the database."""
    return use_database(server, "words")


@pytest.fixture
def runyard_definitions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The functions of the words, and no others."""
    from tests.features import functions

    ours = {job.name for job in functions.jobs}
    monkeypatch.setattr(
        registry,
        "_functions",
        {name: found for name, found in registry._functions.items() if found.job in ours},
    )
    return functions.defs
