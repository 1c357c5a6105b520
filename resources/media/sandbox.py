"""A pool of processes that decode media, each with limits on memory and time.

A file that crashes or blocks a decoder harms nothing else. The limits are MEDIA_MEMORY_MB,
MEDIA_TIMEOUT and MEDIA_MAX_PIXELS; MEDIA_PROCESSES is the size of the pool.
"""

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from resources.settings import MediaSettings
from runyard.errors import NonRetriable

_ROOT = Path(__file__).resolve().parents[2]


class RefusedMedia(NonRetriable):
    """The file is not accepted; the text says why."""


def how_many() -> int:
    """The size of the pool."""
    return MediaSettings.read().media_processes


def perform(do: str, **task: Any) -> dict[str, Any]:
    """Run a task; raises `RefusedMedia`, also where it took too long or ended its process."""
    settings = MediaSettings.read()
    slots = _slots()
    child = slots.get()
    try:
        if child is None or child.poll() is not None:
            child = _start()
        task |= {"do": do, "most_pixels": settings.media_max_pixels}
        answer = _ask(child, task, settings.media_timeout)
    except BaseException:
        if child is not None:
            _end(child)
            child = None
        raise
    finally:
        slots.put(child)
    if "refused" in answer:
        raise RefusedMedia(answer["refused"])
    result: dict[str, Any] = answer["result"]
    return result


def _ask(child: "subprocess.Popen[bytes]", task: dict[str, Any], seconds: float) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        raise ConnectionError(
            "the process that decodes media has ended; the next attempt starts another"
        ) from None
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    if not ready:
        raise RefusedMedia(f"it takes longer than {seconds:g} s (MEDIA_TIMEOUT)")
    line = child.stdout.readline()
    if not line:
        raise RefusedMedia("it has ended the process that decoded it")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _start() -> "subprocess.Popen[bytes]":
    # It gets none of our variables: whatever exploits a decoder finds no key there.
    # NumPy's threads would each take part of its memory.
    variables = {
        "PATH": os.environ.get("PATH", ""),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "resources.media.sandbox_child",
        str(MediaSettings.read().media_memory_mb),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env=variables,
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


_lock = threading.Lock()
_pool: tuple[int, "queue.LifoQueue[subprocess.Popen[bytes] | None]"] | None = None


def _slots() -> "queue.LifoQueue[subprocess.Popen[bytes] | None]":
    """The idle processes, each started at first use; a forked process has its own."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
            for _ in range(how_many()):
                free.put(None)
            _pool = (os.getpid(), free)
        return _pool[1]


def close() -> None:
    """End the idle processes; the next task starts them again."""
    global _pool
    with _lock:
        pool, _pool = _pool, None
    if pool is not None and pool[0] == os.getpid():
        while not pool[1].empty():
            child = pool[1].get_nowait()
            if child is not None:
                _end(child)


atexit.register(close)
