"""What an invocation did in each of its runs, and to run it before its time."""

from runyard.store.migration_env import run_sql_beside

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table and the function."""
    run_sql_beside(__file__)
