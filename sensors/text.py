"""The function of the text family."""

from pipelines.events import TextGenerateRequested
from pipelines.text import generate
from runyard import Retry, Run, function


# Small batches: a text takes seconds, and others should not wait for it.
@function(TextGenerateRequested, max_batch=20, retry=Retry(attempts=4))
def generate_text(run: Run) -> None:
    """Generate text: text/generate.requested"""
    generate(run)
