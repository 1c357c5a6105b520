"""The functions that write text."""

from pipelines.text import generate_text
from runyard import Retry, on_event

# Small batches: a text takes seconds, and others are not to wait for it.
generate_text_sensor = on_event(
    "text/generate.requested", job=generate_text, max_batch=20, retry=Retry(attempts=4)
)
