"""Separate stacks for tests that need another environment than the shared one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard.settings import settings
from runyard.store import database
from tests.conftest import ROOT, use_database, wait_until
from tests.ports import free_port


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Path]:
    """Run a stack of the tests' code on this process's database; gives the file of its output."""
    (folder / "effects").mkdir()
    (folder / "data").mkdir(mode=0o700)
    log = folder / "up.log"
    with log.open("w") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "runyard", "up"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                "RUNYARD_DATA_DIR": str(folder / "data"),
                "RUNYARD_PORT": str(free_port()),
                "RUNYARD_EFFECTS": str(folder / "effects"),
                **variables,
            },
        )
    try:
        wait_until(lambda: "Ready." in log.read_text() or up.poll() is not None, 90)
        assert up.poll() is None, log.read_text()
        yield log
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(30)


@pytest.fixture
def own_database(server: str) -> Iterator[str]:
    """The URL of the test's own database, which this process uses until the test ends."""
    url = os.environ["DATABASE_URL"]
    yield use_database(server, "through")
    database.close_pool()
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()


def doctor(part: str, **variables: str) -> str:
    """What `runyard doctor` says about a part, in an environment with these variables."""
    doctor_run = subprocess.run(
        [sys.executable, "-m", "runyard", "doctor"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return next(line for line in doctor_run.stdout.splitlines() if line[6:].startswith(part))
