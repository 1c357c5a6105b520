"""Applications with Inngest's SDKs, as processes of their own; and JavaScript's SDK from npm."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT
from tests.ports import free_port

SDKS = ROOT / "tests" / "sdks"
PYTHON = "python"
JAVASCRIPT_VERSIONS = ["4.24.0", "3.54.2"]
SDK_VERSIONS = [PYTHON, *JAVASCRIPT_VERSIONS]
_BINARIES = Path(sys.executable).parent


def install_javascript(
    folder: Path, version: str | None = None, more: Mapping[str, str] | None = None
) -> Path:
    """Copy the scripts into a folder and install the SDK next to them; return the folder.

    `more` are versions of other packages.
    """
    for file in SDKS.glob("*.*"):
        shutil.copy(file, folder)
    if version is not None:
        package = folder / "package.json"
        content = json.loads(package.read_text())
        content["dependencies"] = {"inngest": version, **(more or {})}
        package.write_text(json.dumps(content))
    options = [
        "--ignore-scripts",
        "--omit=optional",
        "--omit=peer",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--loglevel=error",
    ]
    variables = {**os.environ, "PATH": f"{_BINARIES}:{os.environ['PATH']}"}
    subprocess.run(
        [_BINARIES / "npm", "install", *options], cwd=folder, env=variables, check=True, timeout=240
    )
    return folder


class SdkApp:
    """An application that serves functions at `url`.

    Parameters
    ----------
    name
        Its id.
    folder
        Where JavaScript's SDK is installed; None for the one in Python.
    log
        The file for its output.
    variables
        Its environment variables: where its server is, and its keys.
    """

    def __init__(self, name: str, folder: Path | None, log: Path, **variables: str) -> None:
        self.name = name
        self.kind = "javascript" if folder else "python"
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/api/inngest"
        self._folder = folder
        self._log = log
        self._variables = {**os.environ, "NODE_ENV": "development", **variables}
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, *functions: str) -> None:
        """Serve these functions in place of any others: `name:event`, or with `:expression`."""
        self._start("registering", *functions)

    def count(self, ledger: Path) -> None:
        """Serve the function of `counting.py`, which notes its steps in a file."""
        self._start("counting", str(ledger))

    def run(self, script: str) -> None:
        """Serve the functions of a script, `script.py` or `script.mjs`."""
        self._start(script)

    def ledger(self) -> list[Any]:
        """What steps and handlers have noted since it was cleared."""
        return self.noted("ledger")

    def noted(self, what: str) -> list[Any]:
        """A list that the application keeps, or an empty one when it takes what was asked for."""
        text = httpx.get(self.url.replace("/api/inngest", f"/{what}")).text
        noted: list[Any] = json.loads(text or "[]")
        return noted

    def clear(self) -> None:
        """Empty the ledger, and let held steps go on."""
        httpx.get(self.url.replace("/api/inngest", "/clear"))

    def _start(self, script: str, *functions: str) -> None:
        self.stop()
        command: Sequence[str | Path] = (
            [sys.executable, SDKS / f"{script}.py"]
            if self._folder is None
            else [_BINARIES / "node", self._folder / f"{script}.mjs"]
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self.port), self.name, *functions],
                env=self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,  # node is started by a script, and must end with it
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(15)
            self._process = None

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8")

    def _answers(self) -> bool:
        try:
            httpx.get(self.url, timeout=10)
        except httpx.TransportError:
            return False
        return True
