"""Where webhooks' payloads are kept that are too large for an event."""

from runyard.store.migration_env import run_sql_beside

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table."""
    run_sql_beside(__file__)
