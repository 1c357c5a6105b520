"""`runyard types`: the event types of the catalog, for other languages."""

import json
from typing import Any

import click

from runyard.cli.errors import reported
from runyard.cli.event_schemas import event_schemas
from runyard.errors import InvalidInput

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.command()
@click.option("--typescript", "language", flag_value="typescript", help="TypeScript declarations.")
@click.option(
    "--json-schema", "language", flag_value="json-schema", help="A JSON Schema of the events."
)
@reported
def types(language: str | None) -> None:
    """Print all event types for other languages.

    As TypeScript: runyard types --typescript > events.d.ts
    """
    if language is None:
        raise InvalidInput("choose --typescript or --json-schema")
    from runyard.cli.typescript import declarations

    events, definitions = event_schemas()
    if language == "typescript":
        # Neither redacted nor escaped: a compiler reads this.
        click.echo(declarations(events, definitions), nl=False)
    else:
        click.echo(json.dumps(_json_schema(events, definitions), indent=2))


def _json_schema(
    events: dict[str, dict[str, Any]], definitions: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A schema of events: of each name, with its data."""
    return {
        "$schema": _DIALECT,
        "title": "Event",
        "oneOf": [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "data": schema},
                "required": ["name", "data"],
            }
            for name, schema in events.items()
        ],
        "$defs": definitions,
    }
