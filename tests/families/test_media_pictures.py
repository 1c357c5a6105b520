"""Images as cameras, scanners, phones and programs write them: the variants and the refusals."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageSequence, TiffImagePlugin

from demo import sample_media
from runyard.testing import Invocation, Yard
from tests.families.media import image, opened, place

pytestmark = pytest.mark.usefixtures("uploads", "sandboxes")
PNG = [{"width": 400, "format": "png"}]


def gray(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), "float")


def saved(picture: Image.Image, kind: str, **more: Any) -> bytes:
    return sample_media.saved(picture, kind, **more)


def refusal(invocation: Invocation) -> str:
    assert invocation.status == "failed", invocation
    return str([step.error for step in invocation.steps.values()])


def pages(**more: Any) -> bytes:
    """A TIFF of three pages of different sizes: black, gray, white."""
    sheets = [Image.new("L", (80 + 20 * number, 60), 127 * number) for number in range(3)]
    return saved(sheets[0], "TIFF", save_all=True, append_images=sheets[1:], **more)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_of_several_pages_is_its_first_page_and_says_how_many_there_are(
    yard: Yard, uploads: Path, compression: str
) -> None:
    invocation = image(
        yard, place(uploads, pages(compression=compression)), variants=[{"width": 80}]
    )
    picture = opened(invocation)
    assert picture.size == (80, 60)
    assert getattr(picture, "n_frames", 1) == 1
    assert gray(picture).max() < 10
    assert invocation.output["pages"] == 3
    assert invocation.steps["inspect"].output["pages"] == 3


def test_a_smaller_copy_of_a_page_does_not_count_as_a_page(yard: Yard, uploads: Path) -> None:
    sheet, copy = sample_media.photo(80, 60), sample_media.photo(40, 30)
    sink = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(sink, new=True) as written:
        for picture, kind in ((sheet, 0), (copy, 1), (sheet, 0)):
            picture.save(written, "TIFF", tiffinfo={0xFE: kind})
            written.newFrame()
    assert image(yard, place(uploads, sink.getvalue())).output["pages"] == 2


def test_many_pages_are_not_too_many_frames(yard: Yard, uploads: Path) -> None:
    sheets = [Image.new("1", (40, 30), number % 2) for number in range(320)]
    fax = saved(sheets[0], "TIFF", save_all=True, append_images=sheets[1:], compression="group4")
    assert image(yard, place(uploads, fax)).output["pages"] == 320


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations_stay_animated(yard: Yard, uploads: Path, kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    invocation = image(yard, place(uploads, content), variants=[{"width": 40}])
    assert len(list(ImageSequence.Iterator(opened(invocation)))) == 3
    assert "pages" not in invocation.output


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A TIFF with another value in one of its 16-bit tags."""
    content = bytearray(tiff)
    content[content.index(struct.pack("<HHI", tag, 3, 1)) + 8] = value
    return bytes(content)


def ramp(kind: str, low: float, high: float) -> Image.Image:
    """From dark on the left to bright on the right."""
    return Image.fromarray(np.tile(np.linspace(low, high, 200), (100, 1)).astype(kind))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("uint16", 0, 65535),
        ("uint16", 0, 4095),
        ("int32", 0, 2**31 - 1),
        ("int32", 0, 65535),
        ("int32", -1000, 3000),
        ("float32", 0, 1),
        ("float32", 0, 255),
        ("float32", -3e38, 3e38),
        ("float32", 0, 0.001),
    ],
)
def test_deep_gray_goes_from_black_to_white(
    yard: Yard, uploads: Path, kind: str, low: float, high: float
) -> None:
    picture = gray(
        opened(image(yard, place(uploads, saved(ramp(kind, low, high), "TIFF")), variants=PNG))
    )
    assert picture.shape == (100, 200)
    assert np.abs(picture - np.linspace(0, 255, 200)).max() < 3


def test_unsigned_numbers_of_32_bits_are_read_as_such(yard: Yard, uploads: Path) -> None:
    values = np.tile(np.linspace(0, 2**32 - 1, 200), (100, 1)).astype("uint32")
    content = with_tag(saved(Image.fromarray(values.view("int32")), "TIFF"), 339, 1)
    picture = gray(opened(image(yard, place(uploads, content), variants=PNG)))
    assert np.abs(picture - np.linspace(0, 255, 200)).max() < 3


def test_gray_of_16_bits_keeps_its_exposure(yard: Yard, uploads: Path) -> None:
    picture = gray(
        opened(
            image(yard, place(uploads, saved(ramp("uint16", 10_000, 30_000), "PNG")), variants=PNG)
        )
    )
    assert np.abs(picture - np.linspace(10_000, 30_000, 200) / 257).max() < 3


@pytest.mark.parametrize("level", [0, 7, -7])
def test_uniform_gray_causes_no_division_by_zero(yard: Yard, uploads: Path, level: int) -> None:
    flat = Image.fromarray(np.full((30, 40), level, "int32"))
    picture = gray(opened(image(yard, place(uploads, saved(flat, "TIFF")), variants=PNG)))
    assert picture.min() == picture.max() == (255 if level > 0 else 0)


def test_nan_pixels_leave_the_others_unchanged(yard: Yard, uploads: Path) -> None:
    values = np.tile(np.linspace(0, 1, 200), (100, 1)).astype("float32")
    values[0, :3] = np.nan, np.inf, -np.inf
    picture = gray(
        opened(image(yard, place(uploads, saved(Image.fromarray(values), "TIFF")), variants=PNG))
    )
    assert list(picture[0, :3]) == [0, 255, 0]
    assert np.abs(picture[1:] - np.linspace(0, 255, 200)).max() < 3


def test_a_negative_of_16_bits_is_shown_as_a_positive(yard: Yard, uploads: Path) -> None:
    content = with_tag(saved(ramp("uint16", 0, 65535), "TIFF"), 262, 0)
    assert gray(opened(image(yard, place(uploads, content), variants=PNG)))[50, 0] > 250


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "AVIF", "HEIF"])
def test_a_turned_picture_of_any_format_is_told_and_shown_upright(
    yard: Yard, uploads: Path, kind: str, orientation: int
) -> None:
    picture = sample_media.photo(120, 80)
    more = {"tiffinfo": {0x112: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    invocation = image(yard, place(uploads, saved(picture, kind, **more)), variants=PNG)
    size = (80, 120) if orientation >= 5 else (120, 80)
    told = invocation.steps["inspect"].output
    assert (told["width"], told["height"]) == size
    assert opened(invocation).size == size
    red_first = orientation in (1, 4, 5, 6)
    pixels = np.asarray(opened(invocation).convert("RGB"), "float")
    first = pixels[: len(pixels) // 4] if orientation >= 5 else pixels[:, : pixels.shape[1] // 4]
    assert (first[..., 0].mean() > first[..., 2].mean()) == red_first


def exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif.tobytes()


pillow_heif.register_heif_opener()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_what_phones_take_is_taken(yard: Yard, uploads: Path, kind: str) -> None:
    photo = sample_media.photo(400, 300)
    invocation = image(yard, place(uploads, saved(photo, kind, quality=90)), variants=PNG)
    assert invocation.steps["inspect"].output["format"] == kind
    assert (
        np.abs(
            np.asarray(opened(invocation).convert("RGB"), "float") - np.asarray(photo, "float")
        ).mean()
        < 10
    )


def test_a_heic_of_tiles_with_a_second_picture_is_the_one_that_is_meant(
    yard: Yard, uploads: Path
) -> None:
    sink = io.BytesIO()
    heic = pillow_heif.from_pillow(Image.new("RGB", (700, 500), "blue"))
    heic.add_from_pillow(sample_media.photo(700, 500))
    heic.save(sink, quality=80, primary_index=1, tile_size=256)
    invocation = image(yard, place(uploads, sink.getvalue()), variants=PNG)
    left = np.asarray(opened(invocation).convert("RGB"), "float")[:, :50].mean(axis=(0, 1))
    assert left[0] > left[2]
    assert invocation.output["pages"] == 2


def test_half_a_heic_is_refused(yard: Yard, uploads: Path) -> None:
    content = saved(sample_media.photo(400, 300), "HEIF")
    assert "damaged" in refusal(image(yard, place(uploads, content[: len(content) // 2])))


WORDS = b"<html><script>alert(1)</script> <svg> <?php %PDF-1.7 <!DOCTYPE html>"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_a_picture_may_say_what_it_likes(yard: Yard, uploads: Path, kind: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text("Comment", WORDS.decode())
    more: dict[str, Any] = {
        "JPEG": {"comment": WORDS},
        "PNG": {"pnginfo": note},
        "GIF": {"comment": WORDS},
        "WEBP": {"xmp": WORDS},
        "TIFF": {"tiffinfo": {270: WORDS.decode()}},
    }[kind]
    content = saved(sample_media.photo(60, 40), kind, **more)
    assert b"<html>" in content
    assert image(yard, place(uploads, content)).status == "succeeded"


@pytest.mark.parametrize(
    "behind",
    [
        b"<html>",
        b"\n\n<!DOCTYPE html>",
        b"<?php system('x')",
        b"%PDF-1.7",
        b"x" * 1000 + b"<SCRIPT>",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "HEIF"])
def test_a_picture_with_a_page_behind_it_is_refused(
    yard: Yard, uploads: Path, kind: str, behind: bytes
) -> None:
    content = saved(sample_media.photo(60, 40), kind) + behind
    assert "something else at the same time" in refusal(image(yard, place(uploads, content)))


def test_a_picture_that_is_a_pdf_as_well_is_refused(yard: Yard, uploads: Path) -> None:
    content = saved(sample_media.photo(60, 40), "JPEG", comment=b"%PDF-1.7\n1 0 obj << >> endobj")
    pdf = content + b"trailer << >>\nstartxref\n24\n%%EOF"
    assert "something else at the same time" in refusal(image(yard, place(uploads, pdf)))


def test_a_phones_second_picture_or_film_behind_the_first_one_is_no_reason(
    yard: Yard, uploads: Path
) -> None:
    first, second = sample_media.photo(60, 40), sample_media.photo(30, 20)
    assert (
        image(
            yard, place(uploads, saved(first, "MPO", save_all=True, append_images=[second]))
        ).status
        == "succeeded"
    )
    sample_media.video(uploads / "motion.mp4", seconds=0.5)
    motion = sample_media.jpeg(first) + (uploads / "motion.mp4").read_bytes()
    assert image(yard, place(uploads, motion)).status == "succeeded"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"8BPS\0\1" + b"\0" * 100, "Photoshop"),
        (b"\0\0\1\0\1\0\x10\x10" + b"\0" * 100, "icon"),
        (b"%PDF-1.7\n" + b"\0" * 100, "PDF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 100, "JPEG 2000"),
        (b"\xff\x0a" + b"\0" * 100, "JPEG XL"),
        (b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 100, "camera's raw file"),
        (
            saved(Image.new("F", (40, 30)), "TIFF").replace(
                b"\x02\x01\x03\0\1\0\0\0\x20", b"\x02\x01\x03\0\1\0\0\0\x40"
            ),
            "TIFF that is damaged or of an unsupported kind",
        ),
        (b"\xef\xbb\xbf\n<!-- drawn --><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (
            b"<html><body>404 not found</body></html>",
            "not one of JPEG, PNG, WEBP, GIF, AVIF, TIFF, BMP and HEIC",
        ),
    ],
)
def test_what_is_not_taken_is_called_by_its_name(
    yard: Yard, uploads: Path, content: bytes, word: str
) -> None:
    assert word in refusal(image(yard, place(uploads, content)))


def test_a_cameras_negative_is_not_taken_for_its_thumbnail(yard: Yard, uploads: Path) -> None:
    content = saved(sample_media.photo(160, 120), "TIFF", tiffinfo={0xC612: b"\1\4\0\0"})
    assert "camera's raw file" in refusal(image(yard, place(uploads, content)))


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_colours_of_other_kinds_become_srgb(yard: Yard, uploads: Path, mode: str) -> None:
    photo = sample_media.photo(60, 40)
    if mode == "LAB":
        lab = ImageCms.profileToProfile(
            photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert lab is not None
        content = saved(lab, "TIFF")
    else:
        content = saved(photo.convert(mode), "TIFF", compression="jpeg")
    pixels = np.asarray(
        opened(image(yard, place(uploads, content), variants=PNG)).convert("RGB"), "float"
    )
    assert np.abs(pixels - np.asarray(photo, "float")).mean() < 8


def test_a_profile_counts_for_a_palette_as_well(yard: Yard, uploads: Path) -> None:
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    palette = Image.new("P", (40, 30), 0)
    palette.putpalette([255, 0, 0])
    invocation = image(
        yard, place(uploads, saved(palette, "PNG", icc_profile=bytes(swapped))), variants=PNG
    )
    red_, _, blue_ = np.asarray(opened(invocation).convert("RGB"), "float").mean(axis=(0, 1))
    assert blue_ > red_


def test_a_picture_gets_each_of_its_sizes_once(yard: Yard, uploads: Path) -> None:
    invocation = image(yard, place(uploads, sample_media.jpeg(sample_media.photo(1280, 960))))
    pictures = [opened(invocation, number) for number in range(len(invocation.output["variants"]))]
    assert [(picture.format, picture.width) for picture in pictures] == [
        ("WEBP", 320),
        ("WEBP", 640),
        ("WEBP", 1280),
        ("JPEG", 1280),
    ]
    assert len({*invocation.output["variants"]}) == 4


def test_what_differs_in_shape_or_quality_is_not_the_same_variant(
    yard: Yard, uploads: Path
) -> None:
    wanted = [
        {"width": 900},
        {"width": 900, "quality": 30},
        {"width": 900, "height": 300},
        {"width": 800, "quality": 80},
    ]
    invocation = image(
        yard, place(uploads, sample_media.jpeg(sample_media.photo(400, 300))), variants=wanted
    )
    assert len({*invocation.output["variants"]}) == len(invocation.output["variants"]) == 3
