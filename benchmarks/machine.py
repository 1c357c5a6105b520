"""The machine of a result, and the CPU time that a set of processes used."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, versions and commit."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines("/proc/cpuinfo")
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


def cpu_seconds(home: str) -> float:
    """CPU seconds used by all processes of a data folder and by the PostgreSQL server in it."""
    total = 0.0
    for process in psutil.process_iter(["name", "environ", "cpu_times"]):
        belongs = (process.info["environ"] or {}).get(
            "RUNYARD_DATA_DIR"
        ) == home and process.pid != os.getpid()
        if (belongs or process.info["name"] == "postgres") and process.info["cpu_times"]:
            total += process.info["cpu_times"].user + process.info["cpu_times"].system
    return total


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
