"""Whether Dagster keeps its runs where the daemon writes them: in the database of DATABASE_URL.

The daemon adds runs, their events and ticks by statements of its own. Had Dagster its storage in
another database or schema, it would see none of them, and events would wait for ever. Nor would a
worker find the runs, which may have another `dagster.yaml` than the daemon.
"""

from dagster import DagsterInstance

from runyard.dagster_adapter.internals import ask_storage, storages
from runyard.errors import RunyardError
from runyard.store import database
from runyard.store.queries import fetch_one, statements

_ADVICE = (
    "write `postgres_url: {env: DATABASE_URL}` for every storage in dagster.yaml,"
    " or set DATABASE_URL to the database of that storage"
)


def check_storage(instance: DagsterInstance) -> None:
    """Raise `RunyardError` unless all of Dagster's storages are in the database of DATABASE_URL.

    Raises `DatabaseUnavailable` when that database does not answer, and SQLAlchemy's errors when
    that of a storage does not.
    """
    with database.connection() as connection:
        row = fetch_one(connection, "dagster_tables")
    assert row is not None
    question = statements()["dagster_tables"].decode()
    for storage in storages(instance):
        url = getattr(storage, "postgres_url", None)
        if url is None:
            raise RunyardError(
                f"dagster.yaml names {type(storage).__name__}, which is not in PostgreSQL, so no"
                f" function can be started: {_ADVICE}"
            )
        if ask_storage(storage, question) != row["place"]:
            own = database.where(database.database_url())
            raise RunyardError(
                f"dagster.yaml puts {type(storage).__name__} into {database.where(url)}, but the"
                f" events are in {own} or another schema of it, so no function can be started:"
                f" {_ADVICE}"
            )
