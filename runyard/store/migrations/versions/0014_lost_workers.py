"""What takes its worker with it is searched in halves; a user's transaction locks no row of ours."""

from runyard.store.migration_env import run_sql_beside

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the columns, the table of requests and the functions."""
    run_sql_beside(__file__)
