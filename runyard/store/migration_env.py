"""What the migrations of the engine and of a project share."""

from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alembic import context, op
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from sqlalchemy import text

from runyard.store.migration_needs import needs_of, oldest_code

_RECORD = text("""
    INSERT INTO runyard.schemas (name, revision, oldest_code, version)
    VALUES (:name, :revision, :oldest_code, :version)
    ON CONFLICT (name) DO UPDATE SET revision = excluded.revision,
        oldest_code = excluded.oldest_code, version = excluded.version, migrated_at = now()
""")


def run_migrations() -> None:
    """Run the migrations of a folder, on the connection and schema given by `migrate`.

    This is all that the `env.py` of a migrations folder does. Each migration is a transaction, in
    which it also records which code can use the schema from then on.
    """
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table_schema=attributes["schema"],
        version_table="alembic_version",
        transaction_per_migration=True,
        on_version_apply=_record,
    )
    with context.begin_transaction():
        context.run_migrations()


def _record(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """Record a schema's revision for code that does not know it."""
    del heads, run_args
    script = ctx.script
    revision = step.up_revision_id
    assert isinstance(script, ScriptDirectory)
    assert ctx.connection is not None
    assert revision is not None
    chain = [
        (each.revision, needs_of(each.module)) for each in script.walk_revisions("base", revision)
    ]
    ctx.connection.execute(
        _RECORD,
        {
            "name": ctx.version_table_schema,
            "revision": revision,
            "oldest_code": oldest_code(reversed(chain)),
            "version": version("runyard"),
        },
    )


def run_script(sql: str) -> None:
    """Run a script of several SQL statements."""
    op.get_bind().connection.cursor().execute(sql)


def run_sql_beside(file: str) -> None:
    """Run the SQL script that has the same name as a revision's Python file."""
    run_script(Path(file).with_suffix(".sql").read_text(encoding="utf-8"))
