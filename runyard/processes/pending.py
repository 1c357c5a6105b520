"""What `runyard migrate` would do, and what that needs: nothing is changed.

The time and the locks of a migration follow from its kind, which it declares, and from the present
size of its tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import Connection, text

from runyard.processes.schema_check import (
    DAGSTER,
    ENGINE,
    Migrations,
    all_migrations,
    connect,
)
from runyard.store.migration_needs import KINDS, Needs, needs_of, oldest_code
from runyard.store.queries import statements
from runyard.store.schema_state import REFUSED, Compatibility, SchemaState

_SIZE = text("""
    SELECT pg_size_pretty(pg_total_relation_size(oid)) AS size, greatest(reltuples, 0)::bigint AS n
    FROM pg_class WHERE oid = to_regclass(:name)
""")


class Verdict(IntEnum):
    """What a database needs; the exit code of `runyard migrate --check`."""

    UP_TO_DATE = 0
    PENDING = 3
    NEWER = 4
    UNUSABLE = 5


_VERDICTS = {
    Compatibility.CURRENT: Verdict.UP_TO_DATE,
    Compatibility.AHEAD: Verdict.NEWER,
    Compatibility.BEHIND: Verdict.PENDING,
    Compatibility.TOO_NEW: Verdict.UNUSABLE,
    Compatibility.UNRELEASED: Verdict.UNUSABLE,
}
# The gravest first.
_ORDER = (Verdict.UNUSABLE, Verdict.PENDING, Verdict.NEWER, Verdict.UP_TO_DATE)


@dataclass(frozen=True)
class Report:
    """What a database needs, and the lines that say so."""

    verdict: Verdict
    lines: Sequence[str]


def pending_report() -> Report:
    """Compare the database with this code. Raises `DatabaseUnavailable`."""
    with connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        states = {each: each.state(connection) for each in all_migrations()}
        lines = [
            line
            for migrations, state in states.items()
            for line in _lines(connection, migrations, state)
        ]
        verdicts = {_VERDICTS[state.compatibility] for state in states.values()}
        if _is_from_another_cluster(connection, states[ENGINE]):
            lines.append(
                "the tables were copied from another PostgreSQL cluster: waits are to be adapted"
            )
            verdicts.add(Verdict.PENDING)
    verdict = next(each for each in _ORDER if each in verdicts)
    if verdict is Verdict.UP_TO_DATE:
        revisions = ", ".join(f"{state.schema} {state.current}" for state in states.values())
        return Report(verdict, [f"up to date: {revisions}"])
    if verdict is Verdict.PENDING:
        lines.append("Nothing was changed. What is pending is run by: runyard migrate")
    return Report(verdict, lines)


def _is_from_another_cluster(connection: Connection, engine: SchemaState) -> bool:
    """Whether `runyard migrate` would adapt waits to this cluster."""
    if engine.current is None or engine.compatibility in REFUSED:
        return False
    statement = statements()["from_another_cluster"].decode()
    return bool(connection.execute(text(statement)).scalar())


def _lines(connection: Connection, migrations: Migrations, state: SchemaState) -> list[str]:
    """The lines about a schema."""
    if state.compatibility is Compatibility.CURRENT:
        return [f"{state.schema}: up to date ({state.current})"]
    if state.compatibility is not Compatibility.BEHIND:
        return [f"{state.schema}: {state.describe()}"]
    count = len(_pending(state))
    which = "1 migration is" if count == 1 else f"{count} migrations are"
    first = f"{state.schema}: {state.current or 'empty'}, this code needs {state.needed}"
    if migrations == DAGSTER:
        return [f"{first}: {which} pending, of Dagster itself (see its release notes)"]
    lines = [f"{first}: {which} pending"]
    for revision in _pending(state):
        lines += _needs_lines(connection, migrations, state, revision)
    return lines


def _pending(state: SchemaState) -> Sequence[str]:
    """The revisions that are missing, the first one first."""
    done = 0 if state.current is None else state.known.index(state.current) + 1
    return state.known[done:]


def _needs_lines(
    connection: Connection, migrations: Migrations, state: SchemaState, revision: str
) -> list[str]:
    """What a pending migration does, its locks with the sizes, and what may run meanwhile."""
    script = migrations.scripts().get_revision(revision)
    needs = needs_of(script.module)
    lines = [f"  {revision}: {script.doc}"]
    if needs is None:
        return [*lines, "    does not say what it needs: read it before you run it"]
    lines.append(f"    {needs.kind}: {KINDS[needs.kind]}")
    lines += [f"    {line}" for line in _sizes(connection, needs)]
    return [*lines, f"    {_meanwhile(migrations, state, revision)}"]


def _sizes(connection: Connection, needs: Needs) -> list[str]:
    lines = []
    for table in needs.tables:
        row = connection.execute(_SIZE, {"name": table}).mappings().one_or_none()
        if row is not None:
            lines.append(f"{table}: {row['size']}, about {row['n']:,} rows")
    return lines


def _meanwhile(migrations: Migrations, state: SchemaState, revision: str) -> str:
    """What may run while and after a migration runs."""
    if state.current is None:
        return "the schema is empty: nothing runs on it yet"
    chain = state.known[: state.known.index(revision) + 1]
    scripts = migrations.scripts()
    oldest = oldest_code((each, needs_of(scripts.get_revision(each).module)) for each in chain)
    if oldest is None or oldest in state.known[: state.known.index(state.current) + 1]:
        return "processes of the present version go on, meanwhile and afterwards"
    return (
        f"processes of a version before {oldest} do not work afterwards: stop them first, or deploy"
        f" the version with {oldest} first"
    )
