"""The functions of the content family."""

from pipelines.content import generate_content
from runyard import Concurrency, Retry, on_event

# Small batches: a text takes minutes, and others should not wait for it. The concurrency limit is
# per user, so nobody's texts hold up those of others.
generate_content_sensor = on_event(
    "content/generate.requested",
    job=generate_content,
    max_batch=4,
    retry=Retry(attempts=5),
    concurrency=Concurrency(4, key="data.user"),
)
