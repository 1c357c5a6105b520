"""A video as players show it: which stream, from when to when, its rotation and its shape."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from resources.media.images import Refused

_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts")
_TAKEN = "MP4, QuickTime, WebM, Matroska, AVI and MPEG-TS"
# Twenty hours of sixty frames a second.
_MOST_PACKETS = 4_500_000
# The picture may begin long after the sound, and FFmpeg probes for five seconds by default: for so
# many microseconds, in so many bytes.
_OPENING = {"protocol_whitelist": "file", "analyzeduration": "60000000", "probesize": "50000000"}
# Tolerance for a frame's time, which containers round.
_SAME_TIME = 0.001
_TURNS = {
    # whether x and y are swapped, and the signs of what x' and y' are made of
    (False, True, True): None,
    (False, False, True): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, True, False): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, False, False): Image.Transpose.ROTATE_180,
    (True, True, False): Image.Transpose.ROTATE_90,
    (True, False, True): Image.Transpose.ROTATE_270,
    (True, True, True): Image.Transpose.TRANSPOSE,
    (True, False, False): Image.Transpose.TRANSVERSE,
}
_ON_THEIR_SIDE = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


@dataclass(frozen=True)
class VideoFile:
    """An open video. Times are seconds on its own clock, which need not start at 0."""

    container: InputContainer
    stream: VideoStream
    start: float
    end: float
    rate: float
    # Width and height in square pixels, before rotation.
    unturned: tuple[int, int]

    def frames_at(self, times: Sequence[float]) -> Iterator[VideoFrame]:
        """The frame on screen at each of some increasing times, until the video ends.

        The first time always has one.
        """
        decoded = self._decoded_from(times[0])
        current, following = next(decoded), next(decoded, None)
        for number, time in enumerate(times):
            if number and time >= self.end - _SAME_TIME:
                return
            while following is not None and following[0] <= time + _SAME_TIME:
                current, following = following, next(decoded, None)
            yield current[1]

    def _decoded_from(self, time: float) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with their times, from the last key frame before a time on.

        MPEG-TS seeks to any position. What precedes the next key frame there cannot be decoded,
        and is reached by decoding from the beginning.
        """
        first: tuple[float, VideoFrame] | None = None
        for entry in (time, self.start - 1):
            with suppress(av.FFmpegError):  # a file that cannot seek is read on from here
                self.container.seek(int(entry * av.time_base))
            decoded = self._decoded()
            first = next(decoded, None)
            if first is not None and first[0] <= time + _SAME_TIME:
                break
        if first is None:
            raise Refused("it has no frame that can be decoded")
        return chain([first], decoded)

    def _decoded(self) -> Iterator[tuple[float, VideoFrame]]:
        last = self.start
        for frame in self.container.decode(self.stream):
            last = _time(frame, last)
            yield last, frame


@contextmanager
def opened(file: Path, most_pixels: int) -> Iterator[VideoFile]:
    """Open a video; raises `Refused` where it is not one or is too large."""
    # Only the file itself is opened: playlists in it are not followed.
    with av.open(str(file), options=_OPENING) as container:
        stream = _video(container, most_pixels)
        start = _start(container, stream)
        end, rate = _end_and_rate(container, stream, start)
        yield VideoFile(container, stream, start, end, rate, _square(stream, most_pixels))


def turn(frame: VideoFrame) -> Image.Transpose | None:
    """How a frame is rotated or flipped for display, in quarter turns, by its display matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _TURNS[True, c > 0, b > 0]
    return _TURNS[False, a >= 0, d >= 0]


def turned(size: tuple[int, int], how: Image.Transpose | None) -> tuple[int, int]:
    """Width and height after a rotation; its own inverse."""
    return (size[1], size[0]) if how in _ON_THEIR_SIDE else size


def _video(container: InputContainer, most_pixels: int) -> VideoStream:
    name, streams = container.format.name, container.streams.video
    if name not in _FORMATS:
        raise Refused(f"it is a {name}; {_TAKEN} are accepted")
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        cover = " with a cover" if streams else ""
        raise Refused(f"it has no moving picture: it is sound{cover}")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    assert isinstance(stream, VideoStream)
    if not stream.width or not stream.height:
        raise Refused("it has no picture")
    if stream.width * stream.height > most_pixels:
        size = f"{stream.width} x {stream.height}"
        raise Refused(f"its frames have {size} pixels, which are too many (MEDIA_MAX_PIXELS)")
    stream.thread_type = "AUTO"
    return stream


def _start(container: InputContainer, stream: VideoStream) -> float:
    if stream.start_time is not None and stream.time_base is not None:
        return float(stream.start_time * stream.time_base)
    return float(container.start_time or 0) / av.time_base


def _end_and_rate(
    container: InputContainer,
    stream: VideoStream,
    start: float,
) -> tuple[float, float]:
    """When a video ends, and its frames a second: from the container, else from its packets.

    Browsers record WebM without a duration. Matroska's begins at 0 where FFmpeg wrote it, at the
    first frame where others did: it is used where that makes no difference.
    """
    rate = float(stream.average_rate or 0)
    seconds = float(container.duration or 0) / av.time_base
    if seconds > 0 and (start < 1 or not container.format.name.startswith("matroska")):
        return start + seconds, rate
    if seconds > start:
        with suppress(av.FFmpegError):
            container.seek(int((seconds - 1) * av.time_base))
        return max(_packets(container, stream)[1], start), rate
    frames, end = _packets(container, stream)
    return max(end, start), frames / (end - start) if end > start else rate


def _packets(container: InputContainer, stream: VideoStream) -> tuple[int, float]:
    """The number of packets from here on, and when the last of them ends."""
    count, end = 0, 0.0
    for packet in islice(container.demux(stream), _MOST_PACKETS):
        if packet.pts is not None:
            count += 1
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return count, end


def _time(frame: VideoFrame, last: float) -> float:
    """When a frame is shown; AVI only has the order in which frames are decoded."""
    if frame.pts is None and frame.dts is not None and frame.time_base is not None:
        return float(frame.dts * frame.time_base)
    return last if frame.time is None else frame.time


def _square(stream: VideoStream, most_pixels: int) -> tuple[int, int]:
    """Width and height in square pixels; implausible pixel shapes are ignored."""

    shape = Fraction(stream.sample_aspect_ratio or 1)
    width = round(stream.width * shape)
    if not Fraction(1, 4) <= shape <= 4 or width * stream.height > most_pixels:
        return stream.width, stream.height
    return width, stream.height
