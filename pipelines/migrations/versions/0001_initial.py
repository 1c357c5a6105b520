"""The tables of the pipelines, in the schema `app`, and their daily figures, in `analytics`."""

from runyard.store.migration_env import run_sql_beside
from runyard.store.migration_needs import Needs

revision = "0001_initial"
down_revision = None
needs = Needs("create", oldest_code="0001_initial")


def upgrade() -> None:
    """Create everything in `app` and `analytics`."""
    run_sql_beside(__file__)
