"""Converts grayscale images with more than 8 bits a pixel to 8.

16-bit integers and floats from 0 to 1 keep their scale. 32-bit integers, other floats, and images
that would come out nearly black (12 bits in 16 are common in medicine) are stretched from their own
darkest pixel to their own brightest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

_ROWS = 256
# An image whose brightest pixel is below this share of the maximum is a measurement.
_DIM = 1 / 16
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLE_FORMAT, _UNSIGNED = 339, 1


def to_eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """The image with 8 bits; `tags` are those of a TIFF."""
    pixels = np.asarray(image)
    if image.mode == "I" and _is_unsigned(tags):
        pixels = pixels.view("uint32")  # Pillow has no unsigned 32-bit mode
    low, high = _range(pixels)
    small = np.empty(pixels.shape, "uint8")
    for start, rows in _bands(pixels):
        with np.errstate(all="ignore"):
            scaled = (rows.astype("float64") - low) * (255 / (high - low))
        finite = np.nan_to_num(scaled, posinf=255, neginf=0)
        small[start : start + len(rows)] = finite.clip(0, 255).round()
    return Image.fromarray(255 - small if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else small)


def _is_unsigned(tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF declares unsigned pixels, or declares nothing."""
    return bool(tags) and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)) in (_UNSIGNED, (_UNSIGNED,))


def _range(pixels: np.ndarray) -> tuple[float, float]:
    """The values that become black and white."""
    low, high = float("inf"), float("-inf")
    for _, rows in _bands(pixels):
        finite = rows[np.isfinite(rows)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    most = {"u2": 65535.0, "f4": 1.0}.get(pixels.dtype.str[1:], 0.0)
    if low > high:
        return 0.0, 1.0
    if most and low >= 0 and most * _DIM <= high <= most:
        return 0.0, most
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))


def _bands(pixels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A few rows at a time, with the index of the first: all as floats would exhaust memory."""
    for start in range(0, len(pixels), _ROWS):
        yield start, pixels[start : start + _ROWS]
