"""The table of delivery reports; suppressed addresses name their source."""

from runyard.store.migration_env import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    run_sql_beside(__file__)
