"""The tables of the media family."""

from runyard.store.migration_env import run_sql_beside

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    run_sql_beside(__file__)
