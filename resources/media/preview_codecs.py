"""The codecs of video previews, chosen by MEDIA_PREVIEW_CODEC.

VP9, the default, is free to use and to distribute, plays in every current browser, and encodes as
fast as x264.
"""

from dataclasses import dataclass, field

from resources.settings import MediaSettings


@dataclass(frozen=True)
class PreviewCodec:
    """Encoder options of FFmpeg; `format` is the container, named as a variant's format."""

    encoder: str
    format: str
    options: dict[str, str]
    container_options: dict[str, str] = field(default_factory=dict)


_AT_THE_FRONT = {"movflags": "faststart"}  # a browser can start before it has the whole file
PREVIEW_CODECS = {
    "vp9": PreviewCodec(
        "libvpx-vp9",
        "webm",
        {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0", "lag-in-frames": "0"},
    ),
    "av1": PreviewCodec("libsvtav1", "mp4", {"preset": "10", "crf": "40"}, _AT_THE_FRONT),
    "h264": PreviewCodec("libx264", "mp4", {"crf": "28", "preset": "veryfast"}, _AT_THE_FRONT),
}


def chosen() -> str:
    """The name of the codec; raises `NonRetriable` for an unknown one."""
    return MediaSettings.read().media_preview_codec
