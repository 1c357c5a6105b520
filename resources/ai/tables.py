"""The content family's table of generated texts."""

from typing import Any

from dagster import ConfigurableResource
from psycopg.types.json import Jsonb

from runyard.store import database


class Contents(ConfigurableResource[Any]):
    """Writes `app.content`."""

    def save(self, row: dict[str, Any]) -> None:
        """Save a text under its id; saving the same id again changes nothing."""
        values = {**row, "outline": Jsonb(row["outline"]), "usage": Jsonb(row["usage"])}
        with database.connection() as connection:
            # by content_pkey
            connection.execute(
                """
                INSERT INTO app.content (id, event_id, user_id, topic, kind, language, status,
                    outline, text, provider, model, offline, prompt_versions, usage, remarks)
                VALUES (%(id)s, %(event_id)s, %(user)s, %(topic)s, %(kind)s, %(language)s,
                    %(status)s, %(outline)s, %(text)s, %(provider)s, %(model)s, %(offline)s,
                    %(prompt_versions)s, %(usage)s, %(remarks)s)
                ON CONFLICT (id) DO NOTHING""",
                values,
            )
