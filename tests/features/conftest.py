"""The features are tested with Runyard's own test kit, in a database of their own."""

from collections.abc import Iterator
from typing import Any

import pytest

from runyard.functions import registry
from tests.conftest import use_database


@pytest.fixture(scope="package")
def runyard_database(server: str) -> str:
    """The URL of a database for these tests alone."""
    return use_database(server, "features")


@pytest.fixture
def runyard_definitions() -> Iterator[Any]:
    """The functions of the features, and no others."""
    from tests.features import functions

    jobs = {job.name for job in functions.defs.jobs or ()}
    with registry.use(*(known for known in registry.functions() if known.job in jobs)):
        yield functions.defs
