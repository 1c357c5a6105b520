"""Images that are longer than a format allows, such as screenshots of whole web pages."""

import io
from pathlib import Path

import pytest
from PIL import Image

from runyard.testing import Yard
from tests.families.media import image, place

# Whole videos and long pictures are decoded.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uploads", "sandboxes")]


def test_a_picture_that_is_too_long_for_webp_is_made_smaller(yard: Yard, uploads: Path) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (1080, 20_000), (200, 10, 10)).save(sink, "PNG")
    invocation = image(yard, place(uploads, sink.getvalue()))
    assert invocation.status == "succeeded", [step.error for step in invocation.steps.values()]
    sizes = [
        (one["format"], one["width"], one["height"])
        for one in invocation.steps["variants"].output["variants"]
    ]
    assert ("webp", 885, 16_383) in sizes
    assert ("jpeg", 1080, 20_000) in sizes
