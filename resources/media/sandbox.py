"""A few processes that decode media for this one, each within limits of memory and time: what kills or holds one up harms nothing else.

MEDIA_MEMORY_MB (1,536), MEDIA_TIMEOUT (60) and MEDIA_MAX_PIXELS (64 million) are the limits; MEDIA_PROCESSES is how many there are, one a core by default.
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

from runyard.errors import NonRetriable

_ROOT = Path(__file__).resolve().parents[2]


class RefusedMedia(NonRetriable):
    """Seen by whoever sent the file: it is none that is taken, and why."""


def limits() -> tuple[int, float, int]:
    """Memory in megabytes, time in seconds, pixels."""
    environ = os.environ
    return (
        int(environ.get("MEDIA_MEMORY_MB") or 1536),
        float(environ.get("MEDIA_TIMEOUT") or 60),
        int(environ.get("MEDIA_MAX_PIXELS") or 64_000_000),
    )


def how_many() -> int:
    """How many files are worked on at a time."""
    return int(os.environ.get("MEDIA_PROCESSES") or os.cpu_count() or 2)


def perform(do: str, **task: Any) -> dict[str, Any]:
    """Have a task done; raises `RefusedMedia` with the reason, also where it took too long or ended its process."""
    slots = _slots()
    child = slots.get()
    try:
        if child is None or child.poll() is not None:
            child = _start()
        answer = _ask(child, {"do": do, "most_pixels": limits()[2], **task}, limits()[1])
    except BaseException:
        if child is not None:
            _end(child)
            child = None
        raise
    finally:
        slots.put(child)
    if "refused" in answer:
        raise RefusedMedia(answer["refused"])
    found: dict[str, Any] = answer["result"]
    return found


def _ask(child: "subprocess.Popen[bytes]", task: dict[str, Any], seconds: float) -> dict[str, Any]:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        raise ConnectionError(
            "the process that decodes media has ended: another is started at the next attempt"
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
    # It gets none of our variables: what takes over a decoder finds no key there.
    # NumPy's threads would each take some of its memory.
    variables = {
        "PATH": os.environ.get("PATH", ""),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "resources.media.sandbox_child", str(limits()[0])]
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
_made: tuple[int, "queue.LifoQueue[subprocess.Popen[bytes] | None]"] | None = None


def _slots() -> "queue.LifoQueue[subprocess.Popen[bytes] | None]":
    """The processes that are free, each started when it is first needed; those of a parent are not ours."""
    global _made
    with _lock:
        if _made is None or _made[0] != os.getpid():
            free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
            for _ in range(how_many()):
                free.put(None)
            _made = (os.getpid(), free)
        return _made[1]


def close() -> None:
    """End the processes that are free; the next task starts them again."""
    global _made
    with _lock:
        found, _made = _made, None
    if found is not None and found[0] == os.getpid():
        while not found[1].empty():
            child = found[1].get_nowait()
            if child is not None:
                _end(child)


atexit.register(close)
