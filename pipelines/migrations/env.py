"""Alembic's environment for the tables of the pipelines."""

from runyard.store.migration_env import run_migrations

run_migrations()
