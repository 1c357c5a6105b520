"""The revision of a schema beside those that this code knows, and what follows for this code.

- It is the code's own: the code works.
- It is an earlier one: the code does not start before `runyard migrate`.
- It is the code's own, but something is missing: the database is from before the first release,
  and the code refuses.
- It is unknown, so a newer version made it. That version has recorded the oldest revision whose
  code works on the schema. If this code knows that one it goes on, with a warning; if not it
  refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import psycopg

from runyard.errors import SchemaOutOfDate, SchemaUnusable
from runyard.store.queries import Connection, fetch_one

ENGINE_SCHEMA = "runyard"
MIGRATIONS = Path(__file__).parent / "migrations"


class Compatibility(Enum):
    """How a schema stands to this code."""

    CURRENT = "current"
    UNRELEASED = "unreleased"
    BEHIND = "behind"
    AHEAD = "ahead"
    TOO_NEW = "too new"


# How a schema stands that neither this code nor its migrations can use.
REFUSED = (Compatibility.UNRELEASED, Compatibility.TOO_NEW)


@dataclass(frozen=True)
class Recorded:
    """What the last migration of a schema has recorded: see the table `runyard.schemas`."""

    revision: str
    oldest_code: str | None
    version: str


@dataclass(frozen=True)
class SchemaState:
    """A schema's revision, and what this code knows.

    Attributes
    ----------
    schema
        The schema's name.
    current
        Its revision; None when it is empty.
    known
        The revisions that this code knows, the first one first.
    recorded
        What the last migration has recorded; None when there was none.
    maker
        What has the revisions: Runyard, the project, or Dagster.
    lacks
        What a schema at this code's revision should have, but has not.
    """

    schema: str
    current: str | None
    known: Sequence[str]
    recorded: Recorded | None = None
    maker: str = "Runyard"
    lacks: str | None = None

    @property
    def needed(self) -> str:
        """The revision of this code."""
        return self.known[-1]

    @property
    def compatibility(self) -> Compatibility:
        """How the schema stands to this code."""
        if self.current == self.needed:
            return Compatibility.CURRENT if self.lacks is None else Compatibility.UNRELEASED
        if self.current is None or self.current in self.known:
            return Compatibility.BEHIND
        if self._record is None:
            return Compatibility.TOO_NEW
        oldest = self._record.oldest_code
        return (
            Compatibility.AHEAD if oldest is None or oldest in self.known else Compatibility.TOO_NEW
        )

    @property
    def _record(self) -> Recorded | None:
        """What was recorded about the present revision."""
        record = self.recorded
        return record if record is not None and record.revision == self.current else None

    def describe(self) -> str:
        """The schema's state in one sentence, with what to do."""
        match self.compatibility:
            case Compatibility.CURRENT:
                return f"schema {self.schema} is at version {self.current}"
            case Compatibility.UNRELEASED:
                return (
                    f"schema {self.schema} is at version {self.current}, but has no {self.lacks}:"
                    " code from before the first release made it. If its data may be deleted, start"
                    " anew: `runyard delete-database` for the embedded database, `DROP SCHEMA"
                    f" {self.schema} CASCADE` elsewhere"
                )
            case Compatibility.BEHIND:
                return (
                    f"schema {self.schema} is at version {self.current or 'none'}, the code needs"
                    f" {self.needed}: run `runyard migrate`"
                )
            case Compatibility.AHEAD:
                return (
                    f"{self._made_by()}. It works with this code ({self.needed}), which goes on:"
                    " deploy the newer version here too"
                )
            case Compatibility.TOO_NEW:
                return f"{self._made_by()}{self._way_out()}"

    def _made_by(self) -> str:
        maker = f"a newer version of {self.maker}"
        if self._record is not None and self.schema == ENGINE_SCHEMA:
            maker = f"{self.maker} {self._record.version}"
        return (
            f"schema {self.schema} is at version {self.current}, which this code does not know:"
            f" {maker} made it"
        )

    def _way_out(self) -> str:
        if self._record is not None:
            return (
                f". It needs code of {self._record.oldest_code} or later, and this is"
                f" {self.needed}: deploy the newer version here, or restore the backup from before"
                " the migration"
            )
        return (
            ", or one from before the first release. Run the newer version; or, if the data may be"
            f" deleted, `DROP SCHEMA {self.schema} CASCADE` and migrate again"
        )

    def check(self) -> None:
        """Raise `SchemaOutOfDate` or `SchemaUnusable` if this code does not work on the schema."""
        if self.compatibility is Compatibility.BEHIND:
            raise SchemaOutOfDate(self.describe())
        if self.compatibility in REFUSED:
            raise SchemaUnusable(self.describe())


@cache
def engine_revisions() -> Sequence[str]:
    """The revisions of the engine's schema that this code knows, the first one first."""
    return sorted(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def engine_state(connection: Connection) -> SchemaState | None:
    """The state of the engine's schema, for a client; None when its role may not read that."""
    try:
        row = fetch_one(connection, "schema_revision")
    except psycopg.errors.InsufficientPrivilege:
        return None
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return SchemaState(ENGINE_SCHEMA, None, engine_revisions())
    recorded = Recorded(**row) if row is not None else None
    current = recorded.revision if recorded is not None else None
    return SchemaState(ENGINE_SCHEMA, current, engine_revisions(), recorded)
