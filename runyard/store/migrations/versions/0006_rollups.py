"""Indexes for reports over a span of time."""

from runyard.store.migration_env import run_sql_beside

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the indexes."""
    run_sql_beside(__file__)
