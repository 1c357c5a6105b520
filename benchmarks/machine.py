"""The machine of a result, and the CPU time and memory of the stack's processes."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from runyard.settings import settings


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, versions and commit."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
    }


def cpu_seconds() -> float:
    """CPU seconds that the stack has used so far, database included.

    Processes that have ended count as well: their time is that of the children of their parents.
    """
    total = 0.0
    for process in _stack():
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb() -> float:
    """Memory of the stack, database included, in MB.

    A page that several processes share counts once (their proportional set sizes, Linux only).
    """
    total = 0
    for process in _stack():
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def _stack() -> Iterator[psutil.Process]:
    """The processes started with the stack's data folder, and those of its embedded database."""
    data = str(settings().data)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("RUNYARD_DATA_DIR") == data:
                yield process
    for pid in _lines(settings().postgres_dir / "postmaster.pid")[:1]:
        with suppress(psutil.Error):
            server = psutil.Process(int(pid))
            yield from (server, *server.children(recursive=True))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
