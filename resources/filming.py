"""What is done to a video, in a process of its own (`resources.media_child`): looked at, a poster frame, a short preview without sound. PyAV brings FFmpeg."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.imaging import Refused

_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts")
_PREVIEW_SECONDS = 3.0
_PREVIEW_WIDTH = 320
_PREVIEW_RATE = 12


def inspect(file: Path, most_pixels: int) -> dict[str, Any]:
    """What a video is: container, codec, width, height (pixels), seconds, frames a second, whether it has sound."""
    try:
        # Only the file itself is opened: a playlist in it leads nowhere.
        with av.open(str(file), options={"protocol_whitelist": "file"}) as container:
            if container.format.name not in _FORMATS:
                raise Refused(f"it is a {container.format.name}; MP4, QuickTime, WebM, Matroska, AVI and MPEG-TS are taken")
            stream = _video(container)
            if stream.width * stream.height > most_pixels:
                raise Refused(f"its frames have {stream.width} x {stream.height} pixels, which are too many (MEDIA_MAX_PIXELS)")
            seconds = float(container.duration or 0) / 1_000_000
            rate = float(stream.average_rate or 0)
            return {
                "format": container.format.name.split(",")[0], "codec": stream.codec_context.name, "width": stream.width, "height": stream.height,
                "seconds": round(seconds, 3), "rate": round(rate, 3), "sound": bool(container.streams.audio),
            }  # fmt: skip
    except av.FFmpegError as error:
        raise Refused(f"it is no video, or is damaged: {error.strerror}") from None


def poster_and_preview(file: Path, into: Path, most_pixels: int) -> dict[str, Any]:
    """Write a frame of a tenth into the video as `poster.png`, and some seconds from there as `preview.mp4`."""
    about = inspect(file, most_pixels)
    start = about["seconds"] / 10
    try:
        with av.open(str(file), options={"protocol_whitelist": "file"}) as container:
            stream = _video(container)
            stream.thread_type = "AUTO"
            if start:
                container.seek(int(start * 1_000_000))
            frames = _from(container, stream, start)
            first = next(frames, None)
            if first is None:
                raise Refused("it has no frame that can be decoded")
            first.to_image().save(into / "poster.png")
            size = _write_preview(first, frames, into / "preview.mp4", start)
    except av.FFmpegError as error:
        raise Refused(f"it is damaged: {error.strerror}") from None
    return {"preview": {"file": "preview.mp4", "width": size[0], "height": size[1]}}


def _video(container: Any) -> VideoStream:
    found: VideoStream | None = next(iter(container.streams.video), None)
    if found is None or not found.width or not found.height:
        raise Refused("it has no picture")
    return found


def _from(container: Any, stream: VideoStream, start: float) -> Any:
    for frame in container.decode(stream):
        if frame.time is not None and frame.time >= start - 0.001:
            yield frame


def _write_preview(first: VideoFrame, frames: Any, target: Path, start: float) -> tuple[int, int]:
    width = min(_PREVIEW_WIDTH, first.width) // 2 * 2 or 2
    height = max(2, round(first.height * width / first.width) // 2 * 2)
    with av.open(str(target), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=_PREVIEW_RATE, options={"crf": "28", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, _PREVIEW_RATE)
        written = 0
        for frame in [first, *_until(frames, start + _PREVIEW_SECONDS)]:
            if (frame.time or start) - start + 1e-6 < written / _PREVIEW_RATE:
                continue
            picture = frame.reformat(width=width, height=height, format="yuv420p")
            picture.pts, picture.time_base = written, Fraction(1, _PREVIEW_RATE)
            written += 1
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return width, height


def _until(frames: Any, end: float) -> Any:
    for frame in frames:
        if frame.time > end:
            return
        yield frame
