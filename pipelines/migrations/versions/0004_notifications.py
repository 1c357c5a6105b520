"""The tables of the notifications and the contact form."""

from runyard.store.migration_env import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables."""
    run_sql_beside(__file__)
