"""Launches that fail hold a function back; claims that were never launched are known; what lost two workers waits beside the others."""

from runyard.store.migration_env import run_sql_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the table, the column, the indexes and the functions."""
    run_sql_beside(__file__)
