"""How many files a caller may have open."""

import subprocess
import sys

from tests.conftest import ROOT


def limits(soft: int, hard: int) -> list[str]:
    """What a process with these limits ends with, and whether it finds its hard limit low."""
    code = (
        "import resource; from runyard.processes.open_files import allow_open_files, low_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); allow_open_files();"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE), low_limit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def test_a_caller_may_open_as_many_files_as_its_user_may() -> None:
    assert limits(256, 4_500) == ["4500", "4500", "None"]


def test_a_hard_limit_that_is_low_is_told() -> None:
    assert limits(256, 1_024) == ["1024", "1024", "1024"]
