"""The engine's schema: tables, indexes, triggers and SQL functions."""

from runyard.store.migration_env import run_script
from runyard.store.migration_needs import Needs
from runyard.store.schema import schema_sql

revision = "0001_initial"
down_revision = None
needs = Needs("create", oldest_code="0001_initial")


def upgrade() -> None:
    """Create everything in the schema `runyard`."""
    run_script(schema_sql())
