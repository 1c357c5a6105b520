"""What syncs have loaded."""

from runyard.store.migration_env import run_sql_beside

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table."""
    run_sql_beside(__file__)
