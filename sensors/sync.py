"""The function of the sync family."""

from pipelines.events import SyncRequested
from pipelines.sync import load
from runyard import Concurrency, Retry, Run, function


# One load of a source at a time; a batch of one, because a load may take long.
@function(
    SyncRequested,
    max_batch=1,
    retry=Retry(attempts=6),
    concurrency=Concurrency(1, key="data.source"),
)
def sync_source(run: Run) -> None:
    """Load another system's data: sync/requested"""
    load(run)
