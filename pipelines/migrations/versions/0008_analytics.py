"""The tables of the analytics."""

from runyard.store.migration_env import run_sql_beside

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table."""
    run_sql_beside(__file__)
