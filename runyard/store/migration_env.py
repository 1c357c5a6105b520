"""What the migrations of the engine and of a project share."""

from pathlib import Path

from alembic import context, op


def run_migrations() -> None:
    """Run the migrations of a folder, on the connection and schema given by `migrate`.

    This is all that the `env.py` of a migrations folder does.
    """
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table_schema=attributes["schema"],
        version_table="alembic_version",
    )
    context.run_migrations()


def run_script(sql: str) -> None:
    """Run a script of several SQL statements."""
    op.get_bind().connection.cursor().execute(sql)


def run_sql_beside(file: str) -> None:
    """Run the SQL script that has the same name as a revision's Python file."""
    run_script(Path(file).with_suffix(".sql").read_text(encoding="utf-8"))
