"""Flow control: gates that skip and put off, lanes that take turns, limits that a claim keeps."""

from runyard.store.migration_env import run_sql_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the functions by which a laned function's invocations are claimed."""
    run_sql_beside(__file__)
