"""Text in the background: `text/generate.requested` -> a text, the output of the invocation."""

from dagster import in_process_executor, job, op

from resources.ai.generators import Prompt
from resources.ai.providers import Providers
from runyard import Batch, receive, settle

_THREADS = 4


@op
def generate(batch: Batch, providers: Providers) -> Batch:
    """Generate each text; it is recorded at once, because it costs money."""
    return batch.map(
        "generate",
        lambda item: providers.generate(Prompt(**item.data.model_dump())),
        threads=_THREADS,
        checkpoint_every=1,
    )


@job(executor_def=in_process_executor, description="Generate text: text/generate.requested")
def generate_text() -> None:
    """The function's graph."""
    settle(generate(receive()))
