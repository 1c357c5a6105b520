"""A process with all that it has started."""

import psutil


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants at once."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()
