"""Whose an event is, and which keys share their idempotency keys."""

from runyard.store.migration_env import run_sql_beside

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the columns and the function."""
    run_sql_beside(__file__)
