"""The media family's table: every asset with its files."""

from typing import Any

from dagster import ConfigurableResource
from psycopg.types.json import Jsonb

from resources.media.store import MediaStore
from runyard.store import database


class Media(ConfigurableResource[Any]):
    """Writes `app.media`."""

    def record(self, row: dict[str, Any]) -> None:
        """Save an asset; saving the same id again replaces it."""
        with database.connection() as connection:
            # by media_pkey
            connection.execute(
                """
                INSERT INTO app.media (id, event_id, kind, source, original, bytes, variant_bytes,
                    width, height, placeholder, colour, manifest, created_at)
                VALUES (%(id)s, %(event_id)s, %(kind)s, %(source)s, %(original)s, %(bytes)s,
                    %(variant_bytes)s, %(width)s, %(height)s, %(placeholder)s, %(colour)s,
                    %(manifest)s, runyard.now())
                ON CONFLICT (id) DO UPDATE
                    SET manifest = excluded.manifest, variant_bytes = excluded.variant_bytes""",
                {**row, "manifest": Jsonb(row["manifest"])},
            )

    def orphans(self, store: MediaStore, older_than: float) -> list[tuple[str, int]]:
        """Files (key, bytes) that no asset refers to, unchanged since a time (epoch seconds)."""
        old = {key: size for key, size, changed in store.files() if changed < older_than}
        with database.connection() as connection:
            # (a full scan, once a day)
            rows = connection.execute(
                """
                SELECT original AS key FROM app.media
                UNION
                SELECT file->>'key'
                FROM app.media, jsonb_array_elements(manifest->'variants') AS file"""
            )
            named = {str(row["key"]) for row in rows}
        return [(key, size) for key, size in sorted(old.items()) if key not in named]
