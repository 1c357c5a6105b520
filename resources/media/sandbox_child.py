"""The process that decodes media, within a memory limit.

It reads one task a line from its input, as JSON, and writes one answer a line to its output. When
it crashes or takes too long, `resources.media.sandbox` starts another. Run as
`python -m resources.media.sandbox_child MEGABYTES`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

from resources.media import images, videos

TASKS = {
    "inspect image": lambda task: images.inspect(Path(task["file"]), task["most_pixels"]),
    "make variants": lambda task: images.make_variants(
        Path(task["file"]),
        task["variants"],
        task["focal"],
        task["keep"],
        Path(task["into"]),
        task["most_pixels"],
    ),
    "inspect video": lambda task: videos.inspect(Path(task["file"]), task["most_pixels"]),
    "preview video": lambda task: videos.poster_and_preview(
        Path(task["file"]), Path(task["into"]), task["most_pixels"], task["codec"]
    ),
}


def main() -> None:
    """Run tasks until the input ends."""
    megabytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), megabytes)), flush=True)


def _answer(task: dict[str, Any], megabytes: int) -> dict[str, Any]:
    try:
        return {"result": TASKS[task["do"]](task)}
    except images.Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"it needs more than {megabytes} MB of memory (MEDIA_MEMORY_MB)"}
    except Exception as error:
        return {"refused": f"it cannot be decoded: {type(error).__name__}: {str(error)[:200]}"}


if __name__ == "__main__":
    main()
