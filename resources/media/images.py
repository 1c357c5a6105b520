"""Inspects images and writes their variants; runs in `resources.media.sandbox_child`.

An image is decoded once, at one of JPEG's reduced sizes where no variant needs the full one. Each
smaller variant is made from the pixels of the next larger one.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import blurhash
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from resources.media.polyglots import is_something_else

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP")
# Formats whose further frames are an animation. TIFF and HEIC have pages instead, and in a phone's
# JPEG (MPO) they hold depth or brightness.
_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
_PAGED = ("TIFF", "HEIF")
# The longest side that a format allows; a longer image is scaled down.
_LONGEST_SIDE = {"webp": 16_383, "jpeg": 65_500, "avif": 65_536}
_QUALITY = {"webp": 80, "avif": 60, "jpeg": 82}
_MOST_FRAMES = 300
_ORIENTATION, _COPYRIGHT, _ARTIST = 0x0112, 0x8298, 0x013B
_DNG_VERSION, _SUBFILE_TYPE = 0xC612, 0x00FE
_SRGB = ImageCms.createProfile("sRGB")
_RAW = "a camera's raw file"
# First bytes of other files that are often uploaded as images.
_OTHERS = {
    b"8BPS": "a Photoshop file",
    b"%PDF-": "a PDF",
    b"%!PS": "PostScript",
    b"\0\0\1\0": "an icon (ICO)",
    b"gimp xcf": "a GIMP file",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"II*\0\x10\0\0\0CR": _RAW,
    b"FUJIFILMCCD-RAW": _RAW,
}


class Refused(Exception):
    """The file is not an image that is accepted; the text says why."""


def look(file: Path, most_pixels: int) -> Image.Image:
    """Open an image without decoding it; raises `Refused`."""
    formats = _formats(file)
    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded
    try:
        image = Image.open(file, formats=formats)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        if _is_tiff(file):
            raise Refused(
                "it is a TIFF that is damaged or of an unsupported kind: export it with 8 bits a "
                "colour"
            ) from None
        raise Refused(f"it is not one of {', '.join(FORMATS)} and HEIC, or is damaged") from None
    if image.format == "TIFF" and _DNG_VERSION in image.getexif():
        raise _refused_as(_RAW)
    pixels = image.width * image.height
    frames = _frame_count(image)
    if pixels > most_pixels:
        raise Refused(
            f"it has {pixels / 1e6:.0f} megapixels, at most {most_pixels / 1e6:.0f} are accepted "
            "(MEDIA_MAX_PIXELS)"
        )
    if frames > _MOST_FRAMES or pixels * frames > 4 * most_pixels:
        raise Refused(
            f"it has {frames} frames of {image.width} x {image.height}, which are too many"
        )
    if is_something_else(file, image.format or ""):
        raise Refused("it is an image and something else at the same time")
    return image


def _formats(file: Path) -> tuple[str, ...]:
    """The formats that a file may have; raises `Refused` where it is known to be something else."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<") and (b"<svg" in text.lower() or text[:5].lower() == b"<?xml"):
        raise Refused("SVG is a program, not a picture: export it as PNG or WebP")
    for begin, name in _OTHERS.items():
        if head.startswith(begin):
            raise _refused_as(name)
    if head[4:8] != b"ftyp":
        return FORMATS
    import pillow_heif  # loaded only for HEIC

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return (*FORMATS, "HEIF")


def _is_tiff(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) in (b"II*\0", b"MM\0*")


def _refused_as(name: str) -> Refused:
    return Refused(f"it is {name}, which is not supported: export it as JPEG, PNG or WebP")


def _frame_count(image: Image.Image) -> int:
    """How many frames an animation has."""
    return getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1


def _page_count(image: Image.Image) -> int:
    """The number of pages; the first one is used (of HEIC the primary image)."""
    count: int = getattr(image, "n_frames", 1) if image.format in _PAGED else 1
    if count == 1 or image.format != "TIFF":
        return count
    smaller = 0
    for number in range(1, count):
        with suppress(SyntaxError, OSError, ValueError):  # an unreadable page still counts
            image.seek(number)
            smaller += _is_smaller_copy(image)
    image.seek(0)
    return count - smaller


def _is_smaller_copy(page: Image.Image) -> bool:
    """Whether a page of a TIFF is a reduced copy of another one."""
    kind = getattr(page, "tag_v2", {}).get(_SUBFILE_TYPE, 0)
    return isinstance(kind, int) and bool(kind & 1)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image once it is upright: EXIF orientations from 5 on are rotated."""
    # Pillow rotates TIFFs itself, and reports their final size.
    turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def inspect(file: Path, most_pixels: int) -> dict[str, Any]:
    """An image's format, width and height as shown, frames, pages, mode and transparency."""
    with look(file, most_pixels) as image:
        width, height = _shown_size(image)
        return {
            "format": "JPEG" if image.format == "MPO" else image.format,
            "width": width,
            "height": height,
            "mode": image.mode,
            "frames": _frame_count(image),
            "pages": _page_count(image),
            "transparent": "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"),
        }


def make_variants(
    file: Path,
    variants: Sequence[dict[str, Any]],
    focal: Sequence[float],
    keep: Sequence[str],
    into: Path,
    most_pixels: int,
) -> dict[str, Any]:
    """Write all variants of an image into a folder.

    Parameters
    ----------
    variants
        Each with `width` (pixels), `format` (webp, avif, jpeg, png), and optionally `height` (it is
        cropped to that shape) and `quality`.
    focal
        The point that a crop must contain, as fractions of width and height.
    keep
        `copyright` keeps the names of its author and owner. All other metadata are removed.

    Returns
    -------
    The variants with file, width and height; the placeholder (BlurHash) and the main colour
    (`#rrggbb`). Nothing is enlarged; of variants that come out equal, only the first is written.
    """
    with look(file, most_pixels) as image:
        exif = _kept(image, keep)
        animated = _frame_count(image) > 1
        frames = _frames(image, variants) if animated else []
        try:
            base = frames[0][0] if frames else _decoded(image, variants)
        except (OSError, SyntaxError, ValueError) as error:
            raise Refused(f"it is damaged: {str(error)[:100]}") from None
    planned = sorted(_different(variants, base.size, focal), key=lambda pair: -pair[1]["width"])
    written: dict[int, dict[str, Any]] = {}
    saving: list[Future[None]] = []
    with ThreadPoolExecutor(2) as pool:  # Pillow releases the GIL while it encodes
        source = base
        for number, variant in planned:
            box, size = _crop(base.size, variant, focal)
            target = into / f"{number}.{variant['format']}"
            written[number] = {**variant, "file": target.name, "width": size[0], "height": size[1]}
            if animated and variant["format"] == "webp":
                saving.append(pool.submit(_save_animated, frames, box, size, variant, exif, target))
                continue
            picture = _resized(source, base, box, size)
            if box == (0, 0, *base.size):
                source = picture  # of the next smaller variant
            saving.append(pool.submit(_save, picture, variant, exif, target))
        for future in saving:
            future.result()
    return {"variants": [written[number] for number in sorted(written)], **_impression(base)}


def _different(
    variants: Sequence[dict[str, Any]], size: tuple[int, int], focal: Sequence[float]
) -> list[tuple[int, dict[str, Any]]]:
    """The variants with their numbers, without those equal to an earlier one."""
    different: dict[Any, tuple[int, dict[str, Any]]] = {}
    for number, variant in enumerate(variants):
        kind = variant["format"]
        quality = variant.get("quality") or _QUALITY[kind] if kind in _QUALITY else None
        different.setdefault((kind, quality, _crop(size, variant, focal)), (number, variant))
    return list(different.values())


def _decoded(image: Image.Image, variants: Sequence[dict[str, Any]]) -> Image.Image:
    """The pixels, upright, in 8-bit sRGB; of a JPEG no more than the largest variant needs."""
    if image.format in ("JPEG", "MPO") and all(
        "height" not in variant or variant["height"] is None for variant in variants
    ):
        largest = max((variant["width"] for variant in variants), default=image.width)
        scale = min(1.0, largest / _shown_size(image)[0])
        image.draft(
            "RGB" if image.mode != "CMYK" else "CMYK",
            (int(image.width * scale), int(image.height * scale)),
        )
    image.load()
    return _as_srgb(ImageOps.exif_transpose(image), getattr(image, "tag_v2", {}))


def _as_srgb(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """The image in sRGB; `tags` are those of a TIFF."""
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        from resources.media.deep_gray import to_eight_bits  # loads NumPy

        image = to_eight_bits(image, tags)
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if image.mode in ("P", "PA") and profile:
        image = image.convert("RGBA" if transparent else "RGB")
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        try:
            alpha = image.getchannel("A") if image.mode == "RGBA" else None
            plain = image.convert("RGB") if image.mode == "RGBA" else image
            converted = ImageCms.profileToProfile(
                plain, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, outputMode="RGB"
            )
            if converted is not None:
                if alpha is not None:
                    converted.putalpha(alpha)
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # an unreadable profile is ignored
    return image.convert("RGBA" if transparent else "RGB")


def _frames(
    image: Image.Image, variants: Sequence[dict[str, Any]]
) -> list[tuple[Image.Image, int]]:
    """The frames of an animation with their durations in milliseconds.

    They are scaled down to the largest variant, so that they fit into memory.
    """
    largest = max((variant["width"] for variant in variants), default=image.width)
    frames: list[tuple[Image.Image, int]] = []
    for frame in ImageSequence.Iterator(image):
        picture = frame.convert("RGBA")
        if picture.width > largest:
            picture = picture.resize(
                (largest, max(1, round(picture.height * largest / picture.width))),
                Image.Resampling.LANCZOS,
            )
        frames.append((picture, int(frame.info.get("duration") or 100)))
    return frames


def _crop(
    size: tuple[int, int], variant: dict[str, Any], focal: Sequence[float]
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The part of an image that a variant shows, and the variant's size, never larger than it."""
    width, height = size
    if variant.get("height"):
        ratio = variant["width"] / variant["height"]
        part = (
            min(width, max(1, round(height * ratio))),
            min(height, max(1, round(width / ratio))),
        )
        left = min(max(0, round(width * focal[0] - part[0] / 2)), width - part[0])
        top = min(max(0, round(height * focal[1] - part[1] / 2)), height - part[1])
        box = (left, top, left + part[0], top + part[1])
        scale = min(1.0, variant["width"] / part[0], _fitting(part, variant))
        return box, (max(1, round(part[0] * scale)), max(1, round(part[1] * scale)))
    scale = min(1.0, variant["width"] / width, _fitting(size, variant))
    return (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))


def _fitting(size: tuple[int, int], variant: dict[str, Any]) -> float:
    """The factor by which an image has to shrink for its format."""
    return _LONGEST_SIDE.get(variant["format"], max(size)) / max(size)


def _resized(
    source: Image.Image, base: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    is_whole = box == (0, 0, *base.size)
    if is_whole and source.size == size:
        return source
    if is_whole:
        return source.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return base.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _save(picture: Image.Image, variant: dict[str, Any], exif: bytes, target: Path) -> None:
    kind = variant["format"]
    picture = picture.copy()  # Pillow stores options in it, and another thread may be saving it
    options: dict[str, Any] = {"exif": exif} if exif else {}
    if kind == "jpeg":
        picture = on_white(picture)
        options |= {"progressive": True, "optimize": True}
    if kind != "png":
        options["quality"] = variant.get("quality") or _QUALITY[kind]
    if kind == "webp":
        options["method"] = 2
    if kind == "avif":
        options["speed"] = 8
    picture.save(target, kind.upper(), **options)


def _save_animated(
    frames: Sequence[tuple[Image.Image, int]],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    variant: dict[str, Any],
    exif: bytes,
    target: Path,
) -> None:
    pictures = [_resized(frame, frame, box, size) for frame, _ in frames]
    more: dict[str, Any] = {"exif": exif} if exif else {}
    pictures[0].save(
        target,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=[duration for _, duration in frames],
        loop=0,
        quality=variant.get("quality") or _QUALITY["webp"],
        method=2,
        **more,
    )


def on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def _kept(image: Image.Image, keep: Sequence[str]) -> bytes:
    """The EXIF data that are kept."""
    if "copyright" not in keep:
        return b""
    original, kept = image.getexif(), Image.Exif()
    for tag in (_COPYRIGHT, _ARTIST):
        if tag in original:
            kept[tag] = original[tag]
    return kept.tobytes() if len(kept) else b""


def _impression(picture: Image.Image) -> dict[str, str]:
    """The placeholder (BlurHash) and the main colour."""
    is_tall = picture.height >= 32 * picture.width
    size = (1, 32) if is_tall else (32, max(1, round(32 * picture.height / picture.width)))
    small = on_white(picture.resize(size))
    values = list(small.tobytes())
    pixels = [values[start : start + 3] for start in range(0, len(values), 3)]
    rows = [pixels[start : start + small.width] for start in range(0, len(pixels), small.width)]
    red, green, blue = _main_colour(small)
    return {
        "placeholder": blurhash.encode(rows, components_x=4, components_y=3),
        "colour": f"#{red:02x}{green:02x}{blue:02x}",
    }


def _main_colour(small: Image.Image) -> tuple[int, int, int]:
    """The most frequent colour after reduction to a few."""
    few = small.quantize(5)
    palette = few.getpalette() or [0, 0, 0]
    number = max(few.getcolors() or [(1, 0)])[1]
    start = 3 * int(number) if isinstance(number, int) else 0
    return palette[start], palette[start + 1], palette[start + 2]
