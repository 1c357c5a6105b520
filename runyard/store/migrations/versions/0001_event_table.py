"""The event table: events, functions, invocations, steps, batches, workers, and the doors for SQL."""

from runyard.store.migration_env import run_sql_beside

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    run_sql_beside(__file__)
