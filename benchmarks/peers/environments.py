"""What the other systems need: a virtual environment each, and a Redis server."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard.errors import RunyardError

_HERE = Path(__file__).parent
_READY_SECONDS = 20


def make_environment(folder: Path, pins: str) -> Path:
    """Make a virtual environment with the packages of a file of pins; return its Python.

    Raises `RunyardError` when they cannot be installed.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    requirements = _HERE / f"{pins}.txt"
    install = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode:
        reason = install.stderr.strip().splitlines()[-1:] or ["pip printed nothing"]
        raise RunyardError(
            f"the packages of {requirements} cannot be installed: {reason[0]}: check the network"
            " and pip's configuration"
        )
    return python


@contextmanager
def redis_server(folder: Path) -> Iterator[Path]:
    """Run a Redis server with an append-only file; gives its socket.

    Raises `RunyardError` when there is none and it cannot be installed, or it does not start.
    """
    folder.mkdir()
    path = folder / "redis.sock"
    options = f"--port 0 --unixsocket {path} --dir {folder} --appendonly yes"
    server = subprocess.Popen(
        [redis_program(), *options.split(), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not path.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RunyardError("redis-server does not start: run it by hand to see why")
            time.sleep(0.05)
        yield path
    finally:
        server.terminate()
        server.wait(_READY_SECONDS)


def redis_program() -> str:
    """The path of redis-server, installed with apt first if it is missing."""
    if shutil.which("redis-server") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "--yes", "redis-server"]):
            subprocess.run(["apt-get", "--quiet", *command], check=False, capture_output=True)
    program = shutil.which("redis-server")
    if program is None:
        raise RunyardError(
            "there is no redis-server, and apt-get could not install it: install Redis with the"
            " system's package manager (`apt-get install redis-server` as root)"
        )
    return program
