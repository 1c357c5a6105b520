"""The function of the content family."""

from pipelines.content import (
    check,
    choose_provider,
    notification,
    outline,
    result,
    save,
    section,
)
from pipelines.events import ContentGenerateRequested
from runyard import Concurrency, Retry, Run, function


# Small batches: a text takes minutes, and others should not wait for it. The concurrency limit is
# per user, so nobody's texts hold up those of others.
@function(
    ContentGenerateRequested,
    max_batch=4,
    retry=Retry(attempts=5),
    concurrency=Concurrency(4, key="data.user"),
)
def generate_content(run: Run) -> None:
    """Write content: content/generate.requested"""
    choose_provider(run)
    outline(run)
    section(run)
    check(run)
    save(run)
    run.send_events("notify", notification)
    result(run)
