"""Images and videos: the variants, the refusals, and that the worker survives any file."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from demo import sample_media
from demo.fake_server import FakeServer, Handler
from resources.media import sandbox
from resources.media.store import MediaStore
from runyard.testing import Yard
from tests.families.media import image, opened, place
from tests.tables import rows

pytestmark = pytest.mark.usefixtures("uploads", "sandboxes")


class Pictures(FakeServer):
    """A server with one image and some traps."""

    content = b""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        places = {
            "/inward": "http://169.254.169.254/latest",
            "/again": "/again",
            "/onward": "/photo.jpg",
        }
        if request.path in places:
            return request.answer(302, headers={"Location": places[request.path]})
        if failure == "cut":
            request.send_response(200)
            request.send_header("Content-Length", str(len(self.content)))
            request.end_headers()
            request.wfile.write(self.content[:100])
            return request.cut()
        return request.answer(200, self.content, "image/jpeg")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pictures]:
    with Pictures() as server:
        server.content = sample_media.jpeg(sample_media.photo(400, 300))
        monkeypatch.setenv("RUNYARD_ALLOWED_HOSTS", server.url.removeprefix("http://"))
        yield server


def test_a_photo_gets_its_variants_a_placeholder_and_a_manifest(yard: Yard, uploads: Path) -> None:
    invocation = image(yard, place(uploads, sample_media.jpeg(sample_media.photo(1200, 900))))
    pictures = [opened(invocation, number) for number in range(4)]
    assert [(picture.format, picture.size) for picture in pictures] == [
        ("WEBP", (320, 240)),
        ("WEBP", (640, 480)),
        ("WEBP", (1200, 900)),
        ("JPEG", (1200, 900)),
    ]
    assert pictures[3].info.get("progressive")
    assert not pictures[3].getexif()
    [row] = rows("SELECT * FROM app.media")
    manifest = json.loads((MediaStore().root / invocation.output["manifest"]).read_text())
    assert manifest == row["manifest"]
    assert len(row["placeholder"]) > 10
    assert row["colour"].startswith("#")
    assert row["width"] == 1200
    for variant in manifest["variants"]:
        content = (MediaStore().root / variant["key"]).read_bytes()
        assert len(content) == variant["bytes"]
        assert variant["sha256"] in variant["key"]


def test_the_same_bytes_are_stored_once(yard: Yard, uploads: Path) -> None:
    content = sample_media.jpeg(sample_media.photo(300, 200))
    first, second = (
        image(yard, place(uploads, content, "a")),
        image(yard, place(uploads, content, "b")),
    )
    assert first.output["variants"] == second.output["variants"]
    assert len(list(MediaStore().files())) == len(
        {*first.output["variants"], first.steps["fetch"].output["key"]}
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_put_upright(yard: Yard, uploads: Path, orientation: int) -> None:
    upright = sample_media.photo(200, 100)
    turned = (
        upright
        if orientation == 1
        else upright.transpose(
            {
                2: Image.Transpose.FLIP_LEFT_RIGHT,
                3: Image.Transpose.ROTATE_180,
                4: Image.Transpose.FLIP_TOP_BOTTOM,
                5: Image.Transpose.TRANSPOSE,
                6: Image.Transpose.ROTATE_90,
                7: Image.Transpose.TRANSVERSE,
                8: Image.Transpose.ROTATE_270,
            }[orientation]
        )
    )
    variant = opened(
        image(
            yard,
            place(uploads, sample_media.jpeg(turned, orientation, quality=95)),
            variants=[{"width": 200, "format": "png"}],
        )
    )
    assert variant.size == (200, 100)
    assert (
        np.abs(np.asarray(variant.convert("RGB"), "float") - np.asarray(upright, "float")).mean()
        < 6
    )


def test_metadata_go_and_the_copyright_stays_where_asked(yard: Yard, uploads: Path) -> None:
    source = place(uploads, sample_media.jpeg(sample_media.photo(100, 80)))
    kept = opened(
        image(yard, source, keep=["copyright"], variants=[{"width": 50, "format": "jpeg"}])
    ).getexif()
    assert dict(kept) == {0x8298: "(c) Ada", 0x013B: "Ada"}
    assert not dict(
        opened(image(yard, source, variants=[{"width": 50, "format": "jpeg"}])).getexif()
    )


@pytest.mark.parametrize(("focal", "reddish"), [((0.0, 0.5), True), ((1.0, 0.5), False)])
def test_a_crop_keeps_its_focal_point(
    yard: Yard, uploads: Path, focal: tuple[float, float], reddish: bool
) -> None:
    variant = opened(
        image(
            yard,
            place(uploads, sample_media.jpeg(sample_media.photo(400, 200))),
            focal=focal,
            variants=[{"width": 50, "height": 100, "format": "png"}],
        )
    )
    red, _, blue = np.asarray(variant.convert("RGB"), "float").mean(axis=(0, 1))
    assert variant.size == (50, 100)
    assert (red > blue) == reddish


def test_nothing_is_enlarged(yard: Yard, uploads: Path) -> None:
    invocation = image(
        yard,
        place(uploads, sample_media.jpeg(sample_media.photo(100, 80))),
        variants=[{"width": 500}, {"width": 400, "height": 400}],
    )
    assert [opened(invocation, number).size for number in (0, 1)] == [(100, 80), (80, 80)]


@pytest.mark.parametrize("kind", ["avif", "webp", "png", "jpeg"])
def test_transparency_stays_or_becomes_white(yard: Yard, uploads: Path, kind: str) -> None:
    picture = Image.new("RGBA", (60, 60), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 30, 60))
    variant = opened(
        image(
            yard,
            place(uploads, sample_media.saved(picture, "PNG")),
            variants=[{"width": 60, "format": kind}],
        )
    )
    corner = variant.convert("RGBA").getpixel((5, 30))
    assert isinstance(corner, tuple)
    assert (corner[3] < 10) if kind != "jpeg" else min(corner[:3]) > 240


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "I;16", "LA"])
def test_every_kind_of_pixels_becomes_srgb(yard: Yard, uploads: Path, mode: str) -> None:
    grey = Image.new("L", (40, 30), 128)
    if mode == "I;16":
        picture = Image.fromarray(np.full((30, 40), 128 * 256, "uint16"))
    else:
        picture = grey.convert("RGB").convert("CMYK") if mode == "CMYK" else grey.convert(mode)
    content = sample_media.saved(picture, "JPEG" if mode in ("CMYK", "L") else "PNG")
    variant = opened(
        image(yard, place(uploads, content), variants=[{"width": 40, "format": "png"}])
    ).convert("RGB")
    assert 100 < np.asarray(variant, "float").mean() < 156 or mode == "1"


def test_an_animation_stays_one(yard: Yard, uploads: Path) -> None:
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "green", "blue")]
    content = io.BytesIO()
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=0
    )
    invocation = image(
        yard,
        place(uploads, content.getvalue()),
        variants=[{"width": 40, "format": "webp"}, {"width": 40, "format": "jpeg"}],
    )
    picture = opened(invocation)
    assert [
        frame.info["duration"] for frame in ImageSequence.Iterator(picture) if frame.load()
    ] == [100, 200, 300]
    assert picture.size == (40, 30)
    assert opened(invocation, 1).format == "JPEG"


@pytest.mark.parametrize("name", sorted(sample_media.hostile()))
def test_a_hostile_file_is_refused_with_its_reason_and_the_worker_lives_on(
    yard: Yard, uploads: Path, name: str
) -> None:
    content, reason = sample_media.hostile()[name]
    bad, good = (
        place(uploads, content, "bad"),
        place(uploads, sample_media.jpeg(sample_media.photo(60, 40)), "good"),
    )
    refused = yard.send("media/image.uploaded", {"source": bad}).invocation
    kept = yard.send(
        "media/image.uploaded", {"source": good, "variants": [{"width": 30}]}
    ).invocation
    yard.work()
    assert refused.status == "failed", refused
    assert reason in str([step.error for step in refused.steps.values()]), refused
    assert kept.status == "succeeded"


def test_too_much_memory_and_too_much_time_are_refusals(
    yard: Yard, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.close()
    monkeypatch.setenv("MEDIA_MEMORY_MB", "260")
    source = place(uploads, sample_media.saved(Image.new("RGB", (7000, 7000)), "PNG"))
    invocation = image(yard, source, variants=[{"width": 6000, "format": "png"}])
    assert invocation.status == "failed", invocation
    sandbox.close()
    monkeypatch.setenv("MEDIA_MEMORY_MB", "1536")
    monkeypatch.setenv("MEDIA_TIMEOUT", "0.01")
    invocation = image(yard, source)
    assert invocation.status == "failed"
    assert "longer than 0.01 s" in str([step.error for step in invocation.steps.values()])
    monkeypatch.setenv("MEDIA_TIMEOUT", "20")
    assert (
        image(yard, place(uploads, sample_media.jpeg(sample_media.photo(60, 40)))).status
        == "succeeded"
    )


@pytest.mark.parametrize(
    "source",
    [
        "../secret",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://localhost/x",
        "http://10.0.0.1/x",
        "gopher://example.com/",
    ],
)
def test_nothing_else_of_this_machine_or_network_is_read(
    yard: Yard, uploads: Path, source: str
) -> None:
    (uploads.parent / "secret").write_bytes(b"x")
    assert image(yard, source).status == "failed"


def test_a_picture_comes_from_a_url_through_redirects(yard: Yard, pictures: Pictures) -> None:
    assert opened(image(yard, f"{pictures.url}/onward")).size == (320, 240)


@pytest.mark.parametrize("path", ["/inward", "/again"])
def test_a_redirect_inward_or_without_end_is_refused(
    yard: Yard, pictures: Pictures, path: str
) -> None:
    assert image(yard, pictures.url + path).status == "failed"


@pytest.mark.parametrize("failure", [503, "reset", "cut"])
def test_a_server_that_fails_is_asked_again(yard: Yard, pictures: Pictures, failure: Any) -> None:
    pictures.failures.append(failure)
    invocation = image(yard, f"{pictures.url}/photo.jpg")
    assert invocation.status == "queued"
    yard.advance("1m")
    assert invocation.status == "succeeded"


def test_a_video_gets_a_poster_and_a_preview(yard: Yard, uploads: Path) -> None:
    import av

    sample_media.video(uploads / "clip.mp4", seconds=5)
    invocation = yard.send("media/video.uploaded", {"source": "clip.mp4"}).invocation
    yard.work()
    assert opened(invocation).size == (320, 240)
    assert opened(invocation).format == "JPEG"
    assert invocation.steps["inspect"].output == {
        "format": "mov",
        "codec": "h264",
        "width": 320,
        "height": 240,
        "seconds": 5.0,
        "rate": 24.0,
        "sound": False,
    }
    with av.open(str(MediaStore().root / invocation.output["variants"][2])) as preview:
        assert preview.streams.video[0].codec_context.name == "vp9"
        assert 2.5 < float(preview.duration or 0) / 1e6 <= 3.2
        assert not preview.streams.audio
        assert sum(1 for _ in preview.decode(video=0)) == 36


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        b"#EXTM3U\nhttp://169.254.169.254/x\n",
        sample_media.jpeg(sample_media.photo(20, 20)),
    ],
)
def test_a_file_that_is_not_a_video_is_rejected(yard: Yard, uploads: Path, content: bytes) -> None:
    place(uploads, content, "clip.mp4")
    invocation = yard.send("media/video.uploaded", {"source": "clip.mp4"}).invocation
    yard.work()
    assert invocation.status == "failed"


def test_the_process_that_decodes_has_no_secret(
    yard: Yard, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    sandbox.close()
    monkeypatch.setenv("GEMINI_API_KEY", "a-secret")
    assert (
        image(yard, place(uploads, sample_media.jpeg(sample_media.photo(60, 40)))).status
        == "succeeded"
    )
    children = [
        child
        for child in psutil.Process().children()
        if "resources.media.sandbox_child" in child.cmdline()
    ]
    assert children
    assert all(
        "a-secret" not in str(child.environ()) and "DATABASE_URL" not in child.environ()
        for child in children
    )
