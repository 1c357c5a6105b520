"""Tables and columns of a source that somebody has dropped by hand: they are made and read anew.

dlt knows from its own records (`_dlt_version`) that it has made a table, and from its state how
far that table was read; it does not look whether the table is still there.
"""

from typing import Any

from dlt.pipeline.helpers import pipeline_drop
from psycopg import sql

from resources.sync.schema import existing_columns
from resources.sync.source_config import Source
from runyard.store import database

# One row a version; there are few, and it has no index.
_RECORDED = """
SELECT tables.name, array_agg(columns.name) AS columns
FROM (
    SELECT schema::jsonb AS schema FROM {versions} WHERE schema_name = %s
    ORDER BY inserted_at DESC LIMIT 1
) AS newest
CROSS JOIN LATERAL jsonb_each(newest.schema -> 'tables') AS tables (name, declared)
CROSS JOIN LATERAL jsonb_each(tables.declared -> 'columns') AS columns (name, declared)
WHERE tables.name NOT LIKE '\\_dlt%%' AND columns.declared ? 'data_type'
  AND columns.name NOT IN ('_dlt_id', '_dlt_load_id')
GROUP BY tables.name
"""


def restore_dropped(pipeline: Any, source: Source) -> list[str]:
    """Make the next load read what was dropped from its beginning, and return a note on each.

    The tables themselves are made by that load; what is left of one whose column was dropped
    stays as it is until then.
    """
    there = existing_columns(source.dataset)
    dropped = []
    for table, columns in _recorded(source).items():
        if missing := columns - there.get(table, {}).keys():
            what = f"column {', '.join(sorted(missing))}" if table in there else "table"
            dropped.append(
                (table, f"{table}: its {what} was dropped here: all of it is read again")
            )
    if not dropped:
        return []
    if pipeline.default_schema_name:
        # Each of its steps keeps a state of its own: of a table `users` for example `users_rows`.
        names = [f"re:{table}(_rows|_pages|_files)?$" for table, _ in dropped]
        pipeline_drop(pipeline, resources=names, state_only=True)()
    _forget_versions(source)
    return [note for _, note in dropped]


def _recorded(source: Source) -> dict[str, set[str]]:
    """The columns that dlt has made, by table."""
    with database.connection() as connection:
        if not _has_versions(connection, source.dataset):
            return {}
        statement = sql.SQL(_RECORDED).format(versions=_versions(source.dataset))
        rows = connection.execute(statement, (source.name,)).fetchall()
    return {str(row["name"]): set(row["columns"]) for row in rows}  # type: ignore[call-overload]


def _forget_versions(source: Source) -> None:
    """Without its record of a version dlt looks at what is there, and makes what is not."""
    with database.transaction() as connection:
        for dataset in (source.dataset, f"{source.dataset}_staging"):
            if _has_versions(connection, dataset):
                connection.execute(sql.SQL("DELETE FROM {}").format(_versions(dataset)))


def _has_versions(connection: Any, dataset: str) -> bool:
    name = _versions(dataset).as_string(connection)
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there", (name,)).fetchone()
    return bool(row["there"])


def _versions(dataset: str) -> sql.Identifier:
    return sql.Identifier(dataset, "_dlt_version")
