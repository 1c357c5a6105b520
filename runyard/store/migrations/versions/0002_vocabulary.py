"""The whole vocabulary of functions: filters, flow control, waits, causes, ends."""

from runyard.store.migration_env import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns and tables; events fan out by the new rules from here on."""
    run_sql_beside(__file__)
