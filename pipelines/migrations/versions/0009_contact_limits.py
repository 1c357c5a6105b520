"""What the limits of the contact form count by."""

from runyard.store.migration_env import run_sql_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    run_sql_beside(__file__)
