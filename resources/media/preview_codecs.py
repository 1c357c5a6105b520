"""What previews of videos are encoded with: MEDIA_PREVIEW_CODEC, which is `vp9` by default.

VP9 is free to use and to pass on, plays in every browser of today, and encodes as fast as x264 did.
"""

import os
from dataclasses import dataclass, field

from runyard.errors import NonRetriable


@dataclass(frozen=True)
class PreviewCodec:
    """How FFmpeg is asked for it; `format` is the container, as a variant's format."""

    encoder: str
    format: str
    options: dict[str, str]
    container_options: dict[str, str] = field(default_factory=dict)


_AT_THE_FRONT = {"movflags": "faststart"}  # what a browser needs in order to begin
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
    """The codec's name; an unknown one fails what asks for it."""
    name = os.environ.get("MEDIA_PREVIEW_CODEC") or "vp9"
    if name not in PREVIEW_CODECS:
        known = ", ".join(PREVIEW_CODECS)
        raise NonRetriable(f"MEDIA_PREVIEW_CODEC is {name!r}: it can be {known}")
    return name
