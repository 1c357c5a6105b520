"""The functions of the text family."""

from pipelines.text import generate_text
from runyard import Retry, on_event

# Small batches: a text takes seconds, and others should not wait for it.
generate_text_sensor = on_event(
    "text/generate.requested", job=generate_text, max_batch=20, retry=Retry(attempts=4)
)
