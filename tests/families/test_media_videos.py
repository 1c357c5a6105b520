"""Videos as phones, browsers, cameras and programs write them: what posters and previews show."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from demo import sample_media
from demo.sample_media import shade
from pipelines.checks import checks
from resources.media.store import MediaStore
from runyard.testing import Invocation, Yard
from tests.families.media import opened, told, video

# Whole videos and long pictures are decoded.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uploads", "sandboxes")]


def preview(invocation: Invocation) -> list[tuple[float, np.ndarray]]:
    """The preview's frames in RGB, with their seconds."""
    assert invocation.status == "succeeded", invocation
    with av.open(str(MediaStore().root / invocation.output["variants"][2])) as opened_file:
        return [
            (float(frame.time), frame.to_ndarray(format="rgb24").astype("float"))
            for frame in opened_file.decode(video=0)
        ]


def refusal(invocation: Invocation) -> str:
    assert invocation.status == "failed", invocation
    return str([step.error for step in invocation.steps.values()])


# How x' and y' are computed in MP4's matrix: a b / c d, x' = a x + c y, y' = b x + d y.
MATRICES = {
    "upright": (1, 0, 0, 1),
    "left": (0, -1, 1, 0),
    "around": (-1, 0, 0, -1),
    "right": (0, 1, -1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
CORNERS = {
    (-1, -1): (220, 40, 40),
    (1, -1): (40, 200, 40),
    (-1, 1): (40, 40, 220),
    (1, 1): (230, 230, 230),
}


def cornered(width: int = 96, height: int = 64) -> np.ndarray:
    """A picture whose quarters have four colours."""
    picture = np.zeros((height, width, 3), "uint8")
    for (x, y), colour in CORNERS.items():
        rows = slice(0, height // 2) if y < 0 else slice(height // 2, height)
        columns = slice(0, width // 2) if x < 0 else slice(width // 2, width)
        picture[rows, columns] = colour
    return picture


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("name", MATRICES)
def test_a_turned_video_is_shown_as_players_do(
    yard: Yard, uploads: Path, name: str, ending: str
) -> None:
    a, b, c, d = MATRICES[name]
    if ending == "mkv" and a * d - b * c < 0:
        ending = "mp4"  # Matroska mirrors nothing
    matrix = [number << 16 for number in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    frames = [(number / 24, cornered()) for number in range(24)]
    sample_media.encode(
        uploads / f"clip.{ending}", frames, prepare=lambda stream: stream.set_display_matrix(matrix)
    )
    invocation = video(yard, f"clip.{ending}")
    size = (96, 64) if a else (64, 96)
    assert (told(invocation)["width"], told(invocation)["height"]) == size
    poster = opened(invocation).convert("RGB")
    assert poster.size == size
    for picture in (np.asarray(poster, "float"), preview(invocation)[0][1]):
        height, width, _ = picture.shape
        assert (width, height) == size
        for (x, y), colour in CORNERS.items():
            row, column = (2 + b * x + d * y) * height // 4, (2 + a * x + c * y) * width // 4
            assert np.abs(picture[row, column] - colour).max() < 40


@pytest.mark.parametrize("start", [20.0, 0.5, 3600.0])
@pytest.mark.parametrize("ending", ["mkv", "ts", "mp4"])
def test_a_video_that_does_not_begin_at_0_has_its_whole_preview(
    yard: Yard, uploads: Path, ending: str, start: float
) -> None:
    times = [number / 24 for number in range(120)]
    options = {"output_ts_offset": str(start)}
    sample_media.encode(
        uploads / f"clip.{ending}",
        [(time, shade(int(40 * time))) for time in times],
        options=options,
    )
    invocation = video(yard, f"clip.{ending}")
    assert told(invocation)["seconds"] == pytest.approx(5, abs=0.6)
    frames = preview(invocation)
    assert len(frames) == 36
    assert frames[-1][1].mean() - frames[0][1].mean() == pytest.approx(40 * 35 / 12, abs=6)
    assert np.asarray(opened(invocation).convert("L")).mean() == pytest.approx(20, abs=6)


def test_a_stream_with_one_key_frame_is_read_from_its_beginning(yard: Yard, uploads: Path) -> None:
    frames = [(number / 24, shade(number)) for number in range(144)]
    sample_media.encode(
        uploads / "clip.ts", frames, encoding={"g": "250"}, options={"output_ts_offset": "100"}
    )
    shown = preview(video(yard, "clip.ts"))
    assert len(shown) == 36
    assert shown[0][1].mean() == pytest.approx(14, abs=3)


SLOW = {
    "one a second": [float(number) for number in range(10)],
    "two a second": [number / 2 for number in range(20)],
    "five a second": [number / 5 for number in range(50)],
    "fifty a second": [number / 50 for number in range(500)],
    "one in ten seconds": [number * 10.0 for number in range(6)],
    "as they come": [
        0,
        0.04,
        0.08,
        0.4,
        0.9,
        1,
        1.5,
        1.54,
        1.58,
        2.6,
        3.4,
        3.5,
        3.6,
        5,
        5.1,
        6,
        9,
        9.5,
        9.9,
    ],
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("webm", "libvpx")])
def test_a_preview_plays_at_the_speed_of_its_video(
    yard: Yard, uploads: Path, ending: str, codec: str, name: str
) -> None:
    times = SLOW[name]
    frames = [
        (time, shade(10 + int(time * 20) if times[-1] < 20 else 10 + int(time * 4)))
        for time in times
    ]
    fine = {"crf": "4", "b": "4M"} if codec == "libvpx" else {}
    sample_media.encode(uploads / f"clip.{ending}", frames, codec=codec, rate=50, encoding=fine)
    invocation = video(yard, f"clip.{ending}")
    start = told(invocation)["seconds"] / 10
    shown = preview(invocation)
    assert len(shown) == 36
    for number, (second, picture) in enumerate(shown):
        assert second == pytest.approx(number / 12, abs=0.002)
        # A frame stays on screen until the next one; at its very time it may be either.
        on_screen = {_shade(frames, start + second + near) for near in (-0.021, 0.0, 0.021)}
        assert min(abs(picture.mean() - level) for level in on_screen) < 4


def _shade(frames: list[tuple[float, np.ndarray]], second: float) -> float:
    return float([picture for time, picture in frames if time <= max(second, 0)][-1].mean())


def test_a_browsers_recording_has_its_seconds(yard: Yard, uploads: Path) -> None:
    recording = sample_media.Stream()
    frames = [(number / 24, shade(number)) for number in range(192)]
    sample_media.encode(recording, frames, codec="libvpx", container="webm", options={"live": "1"})
    (uploads / "recorded.webm").write_bytes(recording.content)
    invocation = video(yard, "recorded.webm")
    assert told(invocation)["seconds"] == pytest.approx(8, abs=0.05)
    assert told(invocation)["rate"] == pytest.approx(24, abs=0.2)
    assert np.asarray(opened(invocation).convert("L")).mean() == pytest.approx(0.8 * 24, abs=3)
    assert len(preview(invocation)) == 36


def test_a_recording_in_fragments_has_its_seconds(yard: Yard, uploads: Path) -> None:
    recording = sample_media.Stream()
    frames = [(number / 24, shade(number % 200, 320, 240)) for number in range(1200)]
    options = {"movflags": "empty_moov+frag_keyframe+default_base_moof+skip_trailer"}
    sample_media.encode(
        recording,
        frames,
        container="mp4",
        options=options,
        encoding={"g": "24", "preset": "ultrafast"},
    )
    (uploads / "recorded.mp4").write_bytes(recording.content)
    assert told(video(yard, "recorded.mp4"))["seconds"] == pytest.approx(50, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (Fraction(64, 45), (1024, 576)),
        (Fraction(16, 15), (768, 576)),
        (Fraction(8, 9), (640, 576)),
        (Fraction(1, 1000), (720, 576)),
    ],
)
def test_pixels_that_are_not_square_are_shown_in_their_shape(
    yard: Yard, uploads: Path, shape: Fraction, size: tuple[int, int]
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = shape

    sample_media.encode(
        uploads / "clip.mp4",
        [(number / 24, cornered(720, 576)) for number in range(12)],
        prepare=prepare,
    )
    invocation = video(yard, "clip.mp4")
    assert (told(invocation)["width"], told(invocation)["height"]) == size
    assert opened(invocation).size == size
    height, width, _ = preview(invocation)[0][1].shape
    assert width / height == pytest.approx(size[0] / size[1], abs=0.02)


def test_two_fields_cause_no_combing(yard: Yard, uploads: Path) -> None:
    fields = shade(40, 320, 240)
    fields[0::2, 100:160], fields[1::2, 140:200] = 220, 220
    frames = [(number / 24, fields) for number in range(12)]
    sample_media.encode(uploads / "clip.mp4", frames, encoding={"x264-params": "tff=1"})
    poster = np.asarray(opened(video(yard, "clip.mp4")).convert("L"), "float")
    assert np.abs(np.diff(poster[:, 120])).mean() < 10


def test_what_can_be_seen_through_is_on_white(yard: Yard, uploads: Path) -> None:
    picture = np.zeros((48, 64, 4), "uint8")
    picture[:, 32:] = (200, 30, 30, 255)
    sample_media.encode(
        uploads / "clip.mov",
        [(number / 24, picture) for number in range(12)],
        codec="qtrle",
        pixels="argb",
    )
    invocation = video(yard, "clip.mov")
    for shown in (
        np.asarray(opened(invocation).convert("RGB"), "float"),
        preview(invocation)[0][1],
    ):
        assert shown[24, 10].min() > 235
        assert np.abs(shown[24, 54] - (200, 30, 30)).max() < 30
    assert opened(invocation, 1).convert("RGBA").getpixel((10, 24))[3] < 20  # type: ignore[index]


@pytest.mark.parametrize(
    ("ending", "codec", "pixels", "width", "height"),
    [
        ("mp4", "libx264", "yuv444p", 321, 241),
        ("webm", "libvpx", "yuv420p", 321, 241),
        ("mp4", "libx264", "yuv420p10le", 320, 240),
        ("mkv", "libx264", "yuv422p10le", 320, 240),
        ("mkv", "ffv1", "gray", 320, 240),
        ("mkv", "ffv1", "yuv420p", 4, 2000),
        ("mkv", "ffv1", "yuv444p", 2000, 40),
        ("avi", "mpeg4", "yuv420p", 320, 240),
        ("avi", "mjpeg", "yuvj420p", 320, 240),
        ("mp4", "libsvtav1", "yuv420p10le", 320, 240),
        ("mov", "prores_ks", "yuva444p10le", 320, 240),
    ],
)
def test_every_kind_of_pixels_is_taken(
    yard: Yard, uploads: Path, ending: str, codec: str, pixels: str, width: int, height: int
) -> None:
    picture = shade(20, width, height)
    picture[height // 2 :] = 235
    if pixels.startswith("yuva"):
        picture = np.dstack([picture, np.full((height, width), 255, "uint8")])
    sample_media.encode(
        uploads / f"clip.{ending}",
        [(number / 24, picture) for number in range(24)],
        codec=codec,
        pixels=pixels,
    )
    invocation = video(yard, f"clip.{ending}")
    assert (told(invocation)["width"], told(invocation)["height"]) == (width, height)
    for shown in (
        np.asarray(opened(invocation).convert("RGB"), "float"),
        preview(invocation)[0][1],
    ):
        assert shown[0].mean() == pytest.approx(20, abs=8)
        assert shown[-1].mean() == pytest.approx(235, abs=8)


def test_a_size_that_changes_on_the_way_is_brought_to_that_of_the_beginning(
    yard: Yard, uploads: Path
) -> None:
    sample_media.encode(
        uploads / "a.ts", [(number / 24, shade(60, 320, 240)) for number in range(24)]
    )
    second = {"output_ts_offset": "1"}
    sample_media.encode(
        uploads / "b.ts",
        [(number / 24, shade(160, 640, 360)) for number in range(24)],
        options=second,
    )
    (uploads / "clip.ts").write_bytes(
        (uploads / "a.ts").read_bytes() + (uploads / "b.ts").read_bytes()
    )
    shown = preview(video(yard, "clip.ts"))
    assert {picture.shape for _, picture in shown} == {(240, 320, 3)}
    assert shown[-1][1].mean() == pytest.approx(160, abs=6)


def test_one_frame_is_a_video(yard: Yard, uploads: Path) -> None:
    sample_media.encode(uploads / "clip.mp4", [(0.0, shade(100))])
    invocation = video(yard, "clip.mp4")
    assert len(preview(invocation)) == 1
    assert told(invocation)["seconds"] < 1


@pytest.mark.parametrize(
    ("cover", "words"), [(False, "it is sound"), (True, "it is sound with a cover")]
)
def test_sound_is_refused_as_such(yard: Yard, uploads: Path, cover: bool, words: str) -> None:
    sample_media.sound(uploads / "song.m4a", cover)
    assert words in refusal(video(yard, "song.m4a"))


@pytest.mark.parametrize(
    ("codec", "name", "ending"),
    [("vp9", "vp9", ".webm"), ("av1", "av1", ".mp4"), ("h264", "h264", ".mp4")],
)
def test_the_codec_of_previews_is_a_setting(
    yard: Yard, uploads: Path, monkeypatch: pytest.MonkeyPatch, codec: str, name: str, ending: str
) -> None:
    monkeypatch.setenv("MEDIA_PREVIEW_CODEC", codec)
    sample_media.video(uploads / "clip.mp4", seconds=5)
    invocation = video(yard, "clip.mp4")
    assert len(preview(invocation)) == 36
    key = invocation.output["variants"][2]
    assert key.endswith(ending)
    with av.open(str(MediaStore().root / key)) as opened_file:
        stream = opened_file.streams.video[0]
        assert stream.codec_context.codec.canonical_name == name
        assert (stream.width, stream.height, stream.pix_fmt) == (320, 240, "yuv420p")


def test_an_unknown_codec_is_reported_with_the_known_ones(
    yard: Yard, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_PREVIEW_CODEC", "h265")
    sample_media.video(uploads / "clip.mp4", seconds=1)
    words = "MEDIA_PREVIEW_CODEC is 'h265': it can be vp9, av1, h264"
    assert words in refusal(video(yard, "clip.mp4"))
    [media] = [check for check in checks() if check.name == "media"]
    assert not media.ok
    assert words in media.says


def test_colours_are_those_of_the_video(yard: Yard, uploads: Path) -> None:
    picture = Image.new("RGB", (1280, 720), (30, 160, 60))
    frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p", dst_colorspace="ITU709")
    high = frame.to_ndarray()
    with av.open(str(uploads / "clip.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(6):
            unsaid = av.VideoFrame.from_ndarray(high, format="yuv420p")
            unsaid.pts = number
            output.mux(stream.encode(unsaid))
        output.mux(stream.encode(None))
    invocation = video(yard, "clip.mkv")
    for shown in (
        np.asarray(opened(invocation).convert("RGB"), "float"),
        preview(invocation)[0][1],
    ):
        assert np.abs(shown.mean(axis=(0, 1)) - (30, 160, 60)).max() < 6
