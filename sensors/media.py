"""The functions of the media family."""

from pipelines.events import MediaImageUploaded, MediaVideoUploaded
from pipelines.media import (
    fetch_image,
    fetch_video,
    inspect_image,
    inspect_video,
    make_poster_and_preview,
    make_variants,
    record_image,
    record_video,
)
from runyard import Retry, Run, function


@function(MediaImageUploaded, max_batch=50, retry=Retry(attempts=5))
def process_image(run: Run) -> None:
    """Make the variants of an image: media/image.uploaded"""
    fetch_image(run)
    inspect_image(run)
    make_variants(run)
    record_image(run)


@function(MediaVideoUploaded, max_batch=4, retry=Retry(attempts=3))
def process_video(run: Run) -> None:
    """Make the poster and the preview of a video: media/video.uploaded"""
    fetch_video(run)
    inspect_video(run)
    make_poster_and_preview(run)
    record_video(run)
