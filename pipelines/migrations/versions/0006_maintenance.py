"""Suppressions that end by themselves."""

from runyard.store.migration_env import run_sql_beside

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    run_sql_beside(__file__)
