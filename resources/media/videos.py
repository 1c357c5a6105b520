"""Inspects videos, and writes their posters and previews; runs in `resources.media.sandbox_child`.

A preview is short and has no sound. PyAV includes FFmpeg.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.filter import Graph
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from PIL import Image

from resources.media.images import Refused, on_white
from resources.media.preview_codecs import PREVIEW_CODECS, PreviewCodec
from resources.media.video_file import opened, turn, turned

_PREVIEW_WIDTH = 320
_PREVIEW_HEIGHT = 1280
_PREVIEW_RATE = 12
_FRAMES = 3 * _PREVIEW_RATE
_UNSPECIFIED_COLOURS, _BT709 = 2, 1


def inspect(file: Path, most_pixels: int) -> dict[str, Any]:
    """A video's container, codec, size as shown, seconds, frames a second and sound."""
    try:
        with opened(file, most_pixels) as video:
            width, height = turned(video.unturned, turn(next(video.frames_at([video.start]))))
            return {
                "format": video.container.format.name.split(",")[0],
                "codec": video.stream.codec_context.name,
                "width": width,
                "height": height,
                "seconds": round(video.end - video.start, 3),
                "rate": round(video.rate, 3),
                "sound": bool(video.container.streams.audio),
            }
    except av.FFmpegError as error:
        raise Refused(f"it is not a video, or is damaged: {error.strerror}") from None


def poster_and_preview(file: Path, into: Path, most_pixels: int, codec: str) -> dict[str, Any]:
    """Write the frame at a tenth of the video as `poster.png`, and a preview from there on."""
    preview = PREVIEW_CODECS[codec]
    if preview.encoder not in av.codecs_available:
        name = f"{codec} ({preview.encoder})"
        raise Refused(f"this PyAV cannot encode {name}: choose another MEDIA_PREVIEW_CODEC")
    target = into / f"preview.{preview.format}"
    try:
        with opened(file, most_pixels) as video:
            start = video.start + (video.end - video.start) / 10
            frames = video.frames_at([start + number / _PREVIEW_RATE for number in range(_FRAMES)])
            first = next(frames)
            how = turn(first)
            _picture(first, video.unturned, how).save(into / "poster.png", compress_level=1)
            width, height = _even_size(turned(video.unturned, how))
            _write(chain([first], frames), how, (width, height), target, preview)
    except av.FFmpegError as error:
        raise Refused(f"it is damaged: {error.strerror}") from None
    written = {"file": target.name, "format": preview.format, "width": width, "height": height}
    return {"preview": written}


def _write(
    frames: Iterator[VideoFrame],
    how: Image.Transpose | None,
    size: tuple[int, int],
    target: Path,
    preview: PreviewCodec,
) -> None:
    """Encode frames that are 1/12 second apart."""
    with av.open(str(target), "w", options=preview.container_options) as output:
        stream = output.add_stream(preview.encoder, rate=_PREVIEW_RATE, options=preview.options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, _PREVIEW_RATE)
        stream.colorspace = stream.color_primaries = stream.color_trc = _BT709
        stream.color_range = ColorRange.MPEG
        last: VideoFrame | None = None
        for number, frame in enumerate(frames):
            if frame is not last:
                last, small = frame, _small(frame, size, how)
            small.pts, small.time_base = number, Fraction(1, _PREVIEW_RATE)
            output.mux(stream.encode(small))
        output.mux(stream.encode(None))


def _even_size(size: tuple[int, int]) -> tuple[int, int]:
    """The preview's width and height, both even: colours are stored for every other pixel."""
    scale = min(1.0, _PREVIEW_WIDTH / size[0], _PREVIEW_HEIGHT / size[1])
    width, height = int(size[0] * scale) // 2 * 2, round(size[1] * scale) // 2 * 2
    return max(2, width), max(2, height)


def _small(frame: VideoFrame, size: tuple[int, int], how: Image.Transpose | None) -> VideoFrame:
    """A frame of the preview."""
    colours: dict[str, Any] = {
        "dst_colorspace": Colorspace.ITU709,
        "dst_color_range": ColorRange.MPEG,
    }
    if how is None and not _has_alpha(frame):
        small = _scaled(frame, size, "yuv420p", **colours)
    else:
        picture = on_white(_picture(frame, turned(size, how), how))
        upright: VideoFrame = VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
        small = upright.reformat(format="yuv420p", **colours)
    small.pict_type = PictureType.NONE  # a key frame need not stay one
    return small


def _picture(
    frame: VideoFrame,
    unturned: tuple[int, int],
    how: Image.Transpose | None,
) -> Image.Image:
    """A frame as players show it; `unturned` is its size before it is rotated."""
    pixels = "rgba" if _has_alpha(frame) else "rgb24"
    scaled: Any = _scaled(frame, unturned, pixels)
    picture: Image.Image
    # NumPy is loaded only for transparent videos.
    picture = Image.fromarray(scaled.to_ndarray()) if pixels == "rgba" else scaled.to_image()
    return picture if how is None else picture.transpose(how)


def _scaled(frame: VideoFrame, size: tuple[int, int], pixels: str, **more: Any) -> VideoFrame:
    options = {"format": pixels, **_colours(frame), **more}
    return _progressive(frame).reformat(width=size[0], height=size[1], **options)


def _has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _colours(frame: VideoFrame) -> dict[str, Any]:
    """The colour space of a frame that declares none: by its size, as players do."""
    if frame.colorspace != _UNSPECIFIED_COLOURS or frame.format.is_rgb:
        return {}
    return {"src_colorspace": Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601}


def _progressive(frame: VideoFrame) -> VideoFrame:
    """A frame without interlacing artefacts; edges are traced within the one frame."""
    if not frame.interlaced_frame:
        return frame
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    one_field = graph.add("estdif", "mode=frame:deint=interlaced")
    graph.link_nodes(source, one_field, graph.add("buffersink")).configure()
    graph.vpush(frame)
    graph.vpush(None)
    return graph.vpull()
