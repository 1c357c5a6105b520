"""Text in the background: `text/generate.requested` -> a text, the output of the invocation."""

from pipelines.events import TextGenerateRequested
from resources.ai.generators import Generated, Prompt
from resources.ai.providers import Providers
from runyard import Item, step


@step(threads=4, checkpoint_every=1)
def generate(item: Item[TextGenerateRequested], providers: Providers) -> Generated:
    """Generate each text; it is recorded at once, because it costs money."""
    return providers.generate(Prompt(**item.data.model_dump()))
