"""What every `env.py` of a migrations folder does: run on the connection and schema that `runyard.processes.migrate` gives."""

from pathlib import Path

from alembic import context, op


def run_migrations() -> None:
    """Run the migrations of the folder that Alembic is at."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table_schema=attributes["schema"],
        version_table="alembic_version",
    )
    context.run_migrations()


def run_sql_beside(file: str) -> None:
    """Run the SQL script that stands beside a revision's Python file, under the same name."""
    script = Path(file).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().connection.cursor().execute(script)
