"""Send images and videos to their functions, and open what they make of them."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from resources.media.store import MediaStore
from runyard.testing import Invocation, Yard


def image(yard: Yard, source: str, **more: Any) -> Invocation:
    """Upload an image, and do the work."""
    invocation = yard.send("media/image.uploaded", {"source": source, **more}).invocation
    yard.work()
    return invocation


def opened(invocation: Invocation, number: int = 0) -> Image.Image:
    """One of the variants of an image or video."""
    assert invocation.status == "succeeded", invocation
    picture = Image.open(
        io.BytesIO((MediaStore().root / invocation.output["variants"][number]).read_bytes())
    )
    picture.load()
    return picture


def place(uploads: Path, content: bytes, name: str = "picture") -> str:
    """Put a file into the folder of uploads; return its name."""
    (uploads / name).write_bytes(content)
    return name


def video(yard: Yard, source: str) -> Invocation:
    """Upload a video, and do the work."""
    invocation = yard.send("media/video.uploaded", {"source": source}).invocation
    yard.work()
    return invocation


def told(invocation: Invocation) -> dict[str, Any]:
    """What is found out about a video."""
    assert invocation.status == "succeeded", invocation
    output: dict[str, Any] = invocation.steps["inspect"].output
    return output
