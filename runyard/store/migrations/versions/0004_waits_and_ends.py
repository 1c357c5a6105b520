"""How invocations wait, are woken, are cancelled, end and are done again."""

from runyard.store.migration_env import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the functions that match events with waits, cancel and replay; tell of every end by internal events."""
    run_sql_beside(__file__)
