"""`runyard catalog`: the event types of the project, as a page and as an AsyncAPI document."""

import json
from collections.abc import Iterator

import click

from runyard.cli.errors import reported
from runyard.events import catalog as event_types
from runyard.functions import registry

_INTRODUCTION = """\
# Event catalog

The events that have a type: what is sent under one of these names has to fit it, whichever way it
comes in. This page is generated from the code, by `runyard catalog`: generate it again after
changing a type. `runyard catalog --asyncapi` prints the same as an AsyncAPI document, and
`runyard types` prints declarations for TypeScript and a JSON Schema.

A type has to fit what was sent before it changed, too: a new field needs a default, and its code is
deployed before its senders. Anything else is an event of another name, `order/placed.v2`.
"""


@click.command()
@click.option("--asyncapi", is_flag=True, help="As an AsyncAPI 3 document, in JSON.")
@reported
def catalog(asyncapi: bool) -> None:
    """Print all event types: their fields, examples, what they start (Markdown)."""
    if asyncapi:
        from runyard.cli.asyncapi import document

        click.echo(json.dumps(document(), indent=2))
    else:
        click.echo(page(), nl=False)


def page() -> str:
    """The event types as a page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    from runyard.gateway.dev.event_types import described_events
    from runyard.processes.code_location import load_checked_code

    load_checked_code()
    functions = registry.functions()
    starts = {
        name: sorted(each.name for each in functions if each.started_by(name))
        for name in event_types.names()
    }
    for event in described_events(starts):
        yield f"## {event.name}\n\n{event.summary}\n"
        yield f"- Starts: {', '.join(f'`{name}`' for name in event.starts) or 'no function'}"
        if event.sent_by:
            yield f"- Sent by: {event.sent_by}"
        if event.fields:
            yield "\n| field | type | meaning |\n|---|---|---|"
            for field in event.fields:
                required = ", required" if field.required else ""
                yield f"| `{field.path}` | {field.type}{required} | {_cell(field.help)} |"
        example = json.dumps({"name": event.name, "data": event.example}, indent=2)
        yield f"\n```json\n{example}\n```\n"


def _cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
