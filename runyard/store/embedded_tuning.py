"""The settings of the embedded PostgreSQL that differ from PostgreSQL's defaults.

They are for a machine with few cores. fsync and synchronous_commit stay on: what was
accepted survives a power cut.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_MEGABYTE = 2**20
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")

_TUNING = {
    # Compiling a statement takes longer than any statement of a queue runs.
    "jit": "off",
    # The first change of a page after a checkpoint writes the whole page to the log, so that rarer
    # checkpoints write less. Recovery after a crash takes longer, by seconds.
    "checkpoint_timeout": "15min",
}


def tuning() -> dict[str, str]:
    """The settings, by name, for the memory that this process may use."""
    return _TUNING | memory_settings(usable_memory())


def memory_settings(usable: int) -> dict[str, str]:
    """The settings that depend on the memory, given in bytes."""
    megabytes = usable // _MEGABYTE
    # A sixteenth of the memory, and no less than the default: the statements of a queue touch few
    # pages, and more would only be taken from the workers. In a small container a quarter.
    buffers = min(max(128, megabytes // 16), 512, max(16, megabytes // 4))
    return {
        "shared_buffers": f"{buffers}MB",
        # An estimate, not an allocation: the workers use about half of the memory.
        "effective_cache_size": f"{max(16, megabytes // 2)}MB",
    }


def usable_memory(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Bytes of memory that this process may use: the machine's, or a container's limit below it.

    `cgroups` is where the control groups are mounted, `membership` lists those of the process.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(cgroups, membership)])


def _limits(cgroups: Path, membership: Path) -> Iterator[int]:
    """The limits of all groups that this process is in, and of those around them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, which is not mounted: its top is its own group.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _limit(folder / name)


def _limit(file: Path) -> Iterator[int]:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return
    if text.isdecimal():  # otherwise `max`: no limit
        yield int(text)
