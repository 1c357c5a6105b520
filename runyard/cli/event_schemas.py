"""The JSON Schemas of the event types, for what describes them to other programs."""

from typing import Any

from runyard.errors import RunyardError
from runyard.events import catalog
from runyard.settings import settings

Schema = dict[str, Any]


def event_schemas(
    reference: str = "#/$defs/{model}",
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the schema of each event's data, by the event's name, and those that they refer to.

    `reference` is how they refer to others. Raises `RunyardError` when there are no event types.
    """
    from pydantic.json_schema import models_json_schema

    models = {name: model for name in catalog.names() if (model := catalog.type_of(name))}
    if not models:
        where = settings().catalog or "RUNYARD_CATALOG, which is not set"
        raise RunyardError(
            f"there are no event types in {where}: declare some with @event_type(...)"
        )
    schemas, together = models_json_schema(
        [(model, "validation") for model in models.values()], ref_template=reference
    )
    events = {name: schemas[model, "validation"] for name, model in models.items()}
    return events, together.get("$defs", {})
