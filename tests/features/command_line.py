"""The command line, in a process of its own."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def runyard(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment with these variables."""
    return subprocess.run(
        [sys.executable, "-m", "runyard", *command],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
