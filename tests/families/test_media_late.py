"""Videos whose picture begins after their sound."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from demo.sample_media import shade
from runyard.testing import Yard
from tests.families.media import told, video

# Whole videos and long pictures are decoded.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uploads", "sandboxes")]


def late(path: Path, codec: str, sound: str, begins: int) -> None:
    """Eight seconds of silence, with a picture of three seconds that starts late."""
    with av.open(str(path), "w") as output:
        moving, heard = (
            output.add_stream(codec, rate=24),
            output.add_stream(sound, rate=48_000, layout="mono"),
        )
        moving.width, moving.height, moving.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for number in range(72):
            frame = av.VideoFrame.from_ndarray(shade(20 + 2 * number), format="rgb24")
            frame.pts, frame.time_base = 24 * begins + number, Fraction(1, 24)
            packets += moving.encode(frame)
        packets += moving.encode(None)
        for number in range(400):
            silence = av.AudioFrame(format="fltp", layout="mono", samples=heard.frame_size or 960)
            silence.planes[0].update(bytes(silence.planes[0].buffer_size))
            silence.sample_rate, silence.pts, silence.time_base = (
                48_000,
                number * silence.samples,
                Fraction(1, 48_000),
            )
            packets += heard.encode(silence)
        packets += heard.encode(None)
        for packet in sorted(
            packets,
            key=lambda packet: float(
                (packet.pts if packet.dts is None else packet.dts) * packet.time_base
            ),
        ):
            output.mux(packet)


@pytest.mark.parametrize(
    ("ending", "codec", "sound"),
    [("webm", "libvpx-vp9", "libopus"), ("mkv", "libx264", "aac"), ("ts", "libx264", "aac")],
)
@pytest.mark.parametrize("begins", [0, 2, 7])
def test_a_picture_that_begins_late_is_taken(
    yard: Yard, uploads: Path, ending: str, codec: str, sound: str, begins: int
) -> None:
    uploads.mkdir(exist_ok=True)
    late(uploads / f"late.{ending}", codec, sound, begins)
    invocation = told(video(yard, f"late.{ending}"))
    assert (invocation["width"], invocation["height"]) == (64, 48)
