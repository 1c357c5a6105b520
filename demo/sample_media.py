"""Generated images and videos for the tests and the demo, and a corpus of hostile files."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image


def photo(width: int = 1200, height: int = 900, seed: int = 1) -> Image.Image:
    """An image with gradients, edges and noise like a photo; red on the left, blue on the right."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 1))
    picture = np.stack([220 * (1 - x), 120 * y, 220 * x], axis=2) + noise
    picture[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.02] = (250, 240, 200)
    return Image.fromarray(picture.clip(0, 255).astype("uint8"))


def jpeg(picture: Image.Image, orientation: int = 1, **more: object) -> bytes:
    """A JPEG with EXIF: an orientation, a location, a copyright."""
    exif = Image.Exif()
    exif[0x0112], exif[0x8298], exif[0x013B] = orientation, "(c) Ada", "Ada"
    exif.get_ifd(0x8825)[1] = "N"
    return saved(picture, "JPEG", exif=exif, **more)


def saved(picture: Image.Image, kind: str, **more: object) -> bytes:
    """The bytes of an image file."""
    sink = io.BytesIO()
    picture.save(sink, kind, **more)
    return sink.getvalue()


def video(
    path: Path,
    seconds: float = 2.0,
    width: int = 320,
    height: int = 240,
    codec: str = "libx264",
) -> None:
    """A video of a moving bar."""

    def bar(number: int) -> np.ndarray:
        pixels = np.full((height, width, 3), 40, "uint8")
        pixels[:, (number * 5) % width : (number * 5) % width + 20] = (240, 200, 60)
        return pixels

    encode(path, [(number / 24, bar(number)) for number in range(int(seconds * 24))], codec=codec)


def encode(
    path: Path | io.RawIOBase,
    frames: Sequence[tuple[float, np.ndarray]],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 24,
    container: str | None = None,
    options: dict[str, str] | None = None,
    encoding: dict[str, str] | None = None,
    prepare: Callable[[av.VideoStream], None] = lambda _: None,
) -> None:
    """Encode a video from images (RGB or RGBA), each with the second at which it is shown."""
    target = path if isinstance(path, io.RawIOBase) else str(path)
    with av.open(target, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=encoding or {})
        assert isinstance(stream, av.VideoStream)
        height, width, channels = frames[0][1].shape
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = Fraction(1, 24_000)
        prepare(stream)
        for second, picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if channels == 4 else "rgb24")
            frame.pts, frame.time_base = round(second * 24_000), Fraction(1, 24_000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def shade(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    """An image of one shade of gray, which identifies a frame."""
    return np.full((height, width, 3), level, "uint8")


class Stream(io.RawIOBase):
    """A stream that cannot seek, like a live recording: nothing can be filled in later."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def sound(path: Path, cover: bool) -> None:
    """A second of silence in AAC, with or without a cover."""
    with av.open(str(path), "w", format="mp4") as output:
        audio = output.add_stream("aac", rate=44_100)
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            assert isinstance(picture, av.VideoStream)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            output.mux(picture.encode(av.VideoFrame.from_ndarray(shade(100), format="rgb24")))
            output.mux(picture.encode(None))
        for number in range(43):
            silence = np.zeros((2, 1024), "float32")
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44_100, number * 1024
            output.mux(audio.encode(frame))
        output.mux(audio.encode(None))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its few bytes do not have: a decompression bomb."""
    row = zlib.compress(b"\0" * (1 + (width * 3)) * min(height, 200), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", row)
        + _chunk(b"IEND", b"")
    )


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files that must be refused, by name, each with a word of the reason."""

    good = jpeg(photo(200, 150))
    gif = io.BytesIO()
    frames = [Image.new("P", (50, 50), number % 250) for number in range(320)]
    for number, frame in enumerate(frames):
        frame.putpixel((number % 50, number // 50), 251)
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    return {
        "bomb": (png_of_size(60_000, 60_000), "megapixels"),
        "100-megapixels": (png_of_size(12_500, 8_000), "megapixels"),
        "truncated": (good[: len(good) // 2], "damaged"),
        "empty": (b"", "damaged"),
        "text": (b"hello", "damaged"),
        "svg": (b'<?xml version="1.0"?><svg onload="alert(1)"/>', "SVG"),
        "svg-bare": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        "zip": (good + b"PK\x03\x04abc" + b"PK\x05\x06" + b"\0" * 18, "something else"),
        "script": (good + b"<script>alert(1)</script>", "something else"),
        "pdf": (saved(photo(50, 50), "PNG") + b"%PDF-1.7", "something else"),
        "frames": (gif.getvalue(), "frames"),
        "header-only": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "damaged"),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
