"""What holds through deploys, and what waits: generations of keys, gaps of functions, matching by equality."""

from runyard.store.migration_env import run_sql_beside

revision = "0011"
down_revision = "0009"


def upgrade() -> None:
    """Make the columns and the functions."""
    run_sql_beside(__file__)
