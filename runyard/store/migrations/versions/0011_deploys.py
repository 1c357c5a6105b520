"""What holds through deploys, and what waits: generations of keys, gaps of functions, matching by equality."""

from alembic import op
from sqlalchemy import text

from runyard.settings import settings
from runyard.store.migration_env import run_sql_beside

revision = "0011"
down_revision = "0009"


def upgrade() -> None:
    """Make the columns and the functions; what is there is of the code location that migrates."""
    run_sql_beside(__file__)
    location = f"{settings().code} in {settings().environment}"
    op.get_bind().execute(
        text("UPDATE runyard.functions SET location = :location"), {"location": location}
    )
