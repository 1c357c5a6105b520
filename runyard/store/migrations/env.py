"""Alembic's environment for the event table: the connection comes from `runyard.store.migrate`."""

from alembic import context

config = context.config
context.configure(
    connection=config.attributes["connection"],
    version_table_schema=config.attributes["schema"],
    version_table="alembic_version",
)
context.run_migrations()
