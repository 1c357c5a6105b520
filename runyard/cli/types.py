"""`runyard types`: the event types of the catalog, for other languages."""

import json
from typing import Any

import click

from runyard.cli.errors import reported
from runyard.errors import InvalidInput, RunyardError
from runyard.events import catalog
from runyard.settings import settings

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

    events, definitions = _schemas()
    if language == "typescript":
        # Neither redacted nor escaped: a compiler reads this.
        click.echo(declarations(events, definitions), nl=False)
    else:
        click.echo(json.dumps(_json_schema(events, definitions), indent=2))


def _schemas() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The schema of each event's data, by the event's name, and those that they refer to."""
    from pydantic.json_schema import models_json_schema

    models = {name: model for name in catalog.names() if (model := catalog.type_of(name))}
    if not models:
        where = settings().catalog or "RUNYARD_CATALOG, which is not set"
        raise RunyardError(
            f"there are no event types in {where}: declare some with @event_type(...)"
        )
    schemas, together = models_json_schema([(model, "validation") for model in models.values()])
    events = {name: schemas[model, "validation"] for name, model in models.items()}
    return events, together.get("$defs", {})


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
