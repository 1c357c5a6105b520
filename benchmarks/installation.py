"""A data folder and a database of a benchmark's own, deleted when it ends."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded import delete_embedded

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def installation(code: str, **variables: str) -> Iterator[Path]:
    """Set this process's environment for a new stack of a code location.

    Gives the folder of the embedded database, which is not running yet. `variables` are those that
    the code location reads.
    """
    data, postgres = (
        Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in ("ryb-", "rybp-")
    )
    before = dict(os.environ)
    os.environ.pop("DATABASE_URL", None)
    os.environ.update(
        DAGSTER_HOME=str(ROOT),
        RUNYARD_HOME=str(ROOT),
        RUNYARD_DATA_DIR=str(data),
        RUNYARD_POSTGRES_DIR=str(postgres),
        RUNYARD_CODE=code,
        RUNYARD_PORT="8299",
        **variables,
    )
    settings.cache_clear()
    try:
        yield postgres
    finally:
        database.close_pool()
        delete_embedded(postgres)
        shutil.rmtree(data, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
