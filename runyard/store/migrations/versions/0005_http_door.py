"""What the HTTP door needs: keys, progress messages, traces."""

from runyard.store.migration_env import run_sql_beside

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables of keys and progress; events keep their trace."""
    run_sql_beside(__file__)
