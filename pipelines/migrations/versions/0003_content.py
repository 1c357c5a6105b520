"""The tables of the content family."""

from runyard.store.migration_env import run_sql_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    run_sql_beside(__file__)
