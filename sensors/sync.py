"""The function of the sync family."""

from pipelines.sync import sync_source
from runyard import Concurrency, Retry, on_event

# One load of a source at a time; a batch of one, because a load may take long.
sync_source_sensor = on_event(
    "sync/requested",
    job=sync_source,
    max_batch=1,
    retry=Retry(attempts=6),
    concurrency=Concurrency(1, key="data.source"),
)
