"""Alembic's environment for the engine's schema."""

from runyard.store.migration_env import run_migrations

run_migrations()
