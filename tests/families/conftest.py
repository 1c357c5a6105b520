"""The project's own functions in the test kit, with fakes in place of the network."""

import gc
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import Definitions

import definitions  # at collection: its functions are declared once
from resources.ai import providers, refused_parameters
from resources.ai.gemini_libraries import GENAI, GENERATIVEAI
from resources.media import sandbox
from runyard.store import database
from tests.conftest import use_database
from tests.fake_gemini import FakeGemini
from tests.fake_openai import FakeOpenAI
from tests.families.syncs import RawApi
from tests.tables import rows

_VARIABLES = (
    "AI_",
    "OPENAI_",
    "GEMINI_",
    "MEDIA_",
    "SENDGRID_",
    "MAIL_",
    "SYNC_",
    "CONTACT_",
    "ANALYTICS_",
)


@pytest.fixture(scope="package")
def runyard_database(server: str) -> str:
    """A database for these tests."""
    return use_database(server, "families")


@pytest.fixture
def runyard_definitions() -> Definitions:
    """The project's own definitions."""
    return definitions.defs


@pytest.fixture(autouse=True)
def fresh(runyard_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty tables and folders, no provider on, every circuit breaker closed."""
    for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MAIL_OUTBOX", str(tmp_path / "outbox"))
    monkeypatch.setenv("MEDIA_STORE", str(tmp_path / "media"))
    monkeypatch.setenv("MEDIA_UPLOADS", str(tmp_path / "uploads"))
    monkeypatch.setenv("ANALYTICS_FOLDER", str(tmp_path / "analytics"))
    monkeypatch.setenv("SYNC_FOLDER", str(tmp_path / "sync"))
    providers.breakers.clear()
    refused_parameters.learnt.clear()
    with database.connection() as connection:
        tables = connection.execute(
            "SELECT schemaname || '.' || relname AS name FROM pg_stat_user_tables"
            " WHERE schemaname IN ('app', 'analytics') AND relname <> 'alembic_version'"
        ).fetchall()
        names = ", ".join(str(row["name"]) for row in tables)
        connection.execute(f"TRUNCATE {names} RESTART IDENTITY".encode())


@pytest.fixture(scope="package")
def _openai() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def openai(_openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> FakeOpenAI:
    """A fake of an OpenAI-compatible server, switched on."""
    _openai.fresh()
    monkeypatch.setenv("OPENAI_API_KEY", _openai.key)
    monkeypatch.setenv("OPENAI_BASE_URL", _openai.base_url)
    return _openai


@pytest.fixture(scope="package")
def _gemini() -> Iterator[FakeGemini]:
    with FakeGemini() as fake:
        yield fake


@pytest.fixture(params=[GENAI, GENERATIVEAI])
def gemini(
    request: pytest.FixtureRequest, _gemini: FakeGemini, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeGemini]:
    """A fake of Gemini, switched on, called by each of the two packages."""
    _gemini.fresh()
    monkeypatch.setenv("GEMINI_LIBRARY", request.param)
    monkeypatch.setenv("GEMINI_API_KEY", _gemini.key)
    monkeypatch.setenv("GEMINI_API_HOST", _gemini.url)
    yield _gemini
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # connections that have failed
        gc.collect()


@pytest.fixture
def no_synced_tables(fresh: None) -> None:
    """No tables of earlier syncs, nor of the databases that they came from."""
    with database.connection() as connection:
        for row in rows(
            "SELECT nspname AS name FROM pg_namespace"
            " WHERE nspname LIKE 'sync\\_%%' OR nspname = 'elsewhere'"
        ):
            connection.execute(f'DROP SCHEMA "{row["name"]}" CASCADE'.encode())


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a text as the file of sources."""

    def write(text: str) -> Path:
        path = tmp_path / f"sync-{time.monotonic_ns()}.toml"
        path.write_text(text)
        monkeypatch.setenv("SYNC_SOURCES", str(path))
        return path

    return write


@pytest.fixture
def raw_api() -> Iterator[RawApi]:
    """An API of a source that answers with the bytes that a test sets."""
    with RawApi() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the files of a source."""
    path = tmp_path / "files"
    path.mkdir()
    return path


@pytest.fixture
def uploads(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the images and videos that are uploaded."""
    path = tmp_path / "uploads"
    path.mkdir()
    monkeypatch.setenv("MEDIA_TIMEOUT", "20")
    return path


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[None]:
    """The processes that open images and videos, which end with the module."""
    yield
    sandbox.close()
