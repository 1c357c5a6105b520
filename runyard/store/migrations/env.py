"""Alembic's environment for the event table."""

from runyard.store.migration_env import run_migrations

run_migrations()
