"""A transaction may send without NOTIFY: `SET LOCAL runyard.notify = off`."""

from runyard.store.migration_env import run_sql_beside

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    """Replace the function."""
    run_sql_beside(__file__)
