"""Pictures and videos for the tests and the demo, and a corpus of hostile files; all of them are made here."""

import io
import struct
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image


def photo(width: int = 1200, height: int = 900, seed: int = 1) -> Image.Image:
    """Something with gradients, edges and noise, as a photo has; red on the left, blue on the right."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 1))
    picture = np.stack([220 * (1 - x), 120 * y, 220 * x], axis=2) + noise
    picture[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.02] = (250, 240, 200)
    return Image.fromarray(picture.clip(0, 255).astype("uint8"))


def jpeg(picture: Image.Image, orientation: int = 1, **more: object) -> bytes:
    """A JPEG with EXIF: an orientation, a place, a copyright."""
    exif = Image.Exif()
    exif[0x0112], exif[0x8298], exif[0x013B] = orientation, "(c) Ada", "Ada"
    exif.get_ifd(0x8825)[1] = "N"
    return saved(picture, "JPEG", exif=exif, **more)


def saved(picture: Image.Image, kind: str, **more: object) -> bytes:
    """The bytes of a picture."""
    sink = io.BytesIO()
    picture.save(sink, kind, **more)
    return sink.getvalue()


def video(path: Path, seconds: float = 2.0, width: int = 320, height: int = 240) -> None:
    """A video of a moving bar."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(int(seconds * 24)):
            pixels = np.full((height, width, 3), 40, "uint8")
            pixels[:, (number * 5) % width : (number * 5) % width + 20] = (240, 200, 60)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says a size, with few bytes behind it: a bomb for whoever believes it."""
    row = zlib.compress(b"\0" * (1 + (width * 3)) * min(height, 200), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + _chunk(b"IDAT", row) + _chunk(b"IEND", b"")


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files that are to be refused, by name, each with a word of the reason."""
    good = jpeg(photo(200, 150))
    gif = io.BytesIO()
    frames = [Image.new("P", (50, 50), number % 250) for number in range(320)]
    for number, frame in enumerate(frames):
        frame.putpixel((number % 50, number // 50), 251)
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    return {
        "bomb": (png_of_size(60_000, 60_000), "megapixels"), "100-megapixels": (png_of_size(12_500, 8_000), "megapixels"),
        "truncated": (good[: len(good) // 2], "damaged"), "empty": (b"", "damaged"), "text": (b"hello", "damaged"),
        "svg": (b'<?xml version="1.0"?><svg onload="alert(1)"/>', "SVG"), "svg-bare": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        "zip": (good + b"PK\x03\x04abc" + b"PK\x05\x06" + b"\0" * 18, "something else"), "script": (good + b"<script>alert(1)</script>", "something else"),
        "pdf": (saved(photo(50, 50), "PNG") + b"%PDF-1.7", "something else"), "frames": (gif.getvalue(), "frames"),
        "header-only": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "damaged"),
    }  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
