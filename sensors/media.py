"""The functions of the media family."""

from pipelines.media import process_image, process_video
from runyard import Retry, on_event

process_image_sensor = on_event(
    "media/image.uploaded", job=process_image, max_batch=50, retry=Retry(attempts=5)
)
process_video_sensor = on_event(
    "media/video.uploaded", job=process_video, max_batch=4, retry=Retry(attempts=3)
)
