"""The columns of one table in one load: their names, their types, and where each was seen.

Data that cannot be stored unchanged is rejected here, with table, column and row.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from resources.sync.column_types import TEXT, TIMESTAMPTZ, declared_type, plain, widen
from resources.sync.naming import NamingConvention
from resources.sync.source_config import Table
from runyard.errors import NonRetriable

_naming = NamingConvention()
_RESERVED = {
    "_dlt_id",
    "_dlt_load_id",
    "tableoid",
    "xmin",
    "cmin",
    "xmax",
    "cmax",
    "ctid",
}
_MOST_COLUMNS = 1_500
_MOST_SHOWN = 60
_MOST_NAMED = 40


class Refused(NonRetriable):
    """The data of a source cannot be stored unchanged."""


class Columns:
    """The columns of one table, collected while a load reads its rows.

    Parameters
    ----------
    table
        The table as it is declared.
    as_text
        The source writes all of its types the same way as text (a CSV file, a typed database), so
        a column may become text where no other type fits.
    times_in_text
        The source has no type for times (JSON): texts that are timestamps become timestamps.
    names_are_certain
        The source names all of its columns, even those without a value (JSON does not).
    """

    def __init__(
        self,
        table: Table,
        *,
        as_text: bool = False,
        times_in_text: bool = False,
        names_are_certain: bool = False,
    ) -> None:
        self.table = table
        self.times_in_text = times_in_text
        self._names_are_certain = names_are_certain
        self.notes: list[str] = []
        self._as_text = as_text
        self._names: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._seen: dict[str, dict[str, str]] = {}
        self._known: set[str] = set()
        self._declared: dict[str, str] = {}
        for source, kind in table.types.items():
            self._declared[self.called(source)] = declared_type(kind)
        self.key = [self.called(source) for source in table.key]

    def called(self, source: str) -> str:
        """The name of a column that the declaration mentions, whether it exists or not."""
        try:
            return _naming.normalize_identifier(self.table.rename.get(source, source))
        except ValueError:
            self.refuse(f"a column has the blank name {_shown(source)}: {_rename(source)}")

    def name(self, source: str) -> str:
        """The name of a source's column; no two columns get the same."""
        name = self._names.get(source)
        if name is None:
            name = self._names[source] = self._add(source)
        return name

    def _add(self, source: str) -> str:
        name = self.called(source)
        if name in _RESERVED:
            self.refuse(f"{_shown(source)} is a reserved name: {_rename(source)}")
        other = self._sources.setdefault(name, source)
        if other != source:
            both = f"{_shown(other)} and {_shown(source)} would both be the column {name}"
            self.refuse(f"{both}: {_rename(source)}")
        if len(self._sources) > _MOST_COLUMNS:
            self.refuse(f"it has more than {_MOST_COLUMNS} columns")
        return name

    def check_declared(self, existing: Collection[str]) -> None:
        """Refuse or note declarations about columns that neither the source nor the table
        (`existing`) has."""
        if not self._names:
            return
        for field, name in self._declarations():
            column = self.called(name)
            if column in self._sources or column in existing:
                continue
            what = f"{field} names the column {_shown(name)}"
            if self._names_are_certain:
                known = ", ".join(map(_shown, list(self._names)[:_MOST_NAMED]))
                self.refuse(f"{what}, which does not exist; there are {known}")
            self.notes.append(f"{self.table.name}: {what}, which no row has")

    def _declarations(self) -> Iterator[tuple[str, str]]:
        table = self.table
        for field, name in (("cursor", table.cursor), ("deleted", table.deleted)):
            if name:
                yield field, name
        for field, names in (("types", table.types), ("rename", table.rename)):
            for name in names:
                yield field, name

    def declared(self, column: str) -> str | None:
        """The declared type of a column."""
        return self._declared.get(column)

    def know(self, column: str) -> None:
        """Register a column, with or without values; without any it is of type text."""
        self._known.add(column)

    def see(self, column: str, kind: str, where: str) -> None:
        """Record that a column contains a value of a type."""
        self._seen.setdefault(column, {}).setdefault(kind, where)

    def has_seen(self, column: str, kind: str) -> bool:
        """Whether that has been recorded already."""
        return kind in self._seen.get(column, ())

    def refuse(self, what: str) -> NoReturn:
        """Refuse the load."""
        raise Refused(f"{self.table.name}: {what}")

    def refuse_value(self, column: str, where: str, what: str) -> NoReturn:
        """Refuse the load for one value."""
        raise Refused(f"{self.table.name}.{column}, {where}: {what}")

    def arrow(self, texts: Mapping[str, Any], count: int, where: Callable[[int], str]) -> pa.Table:
        """Text columns as an Arrow table for dlt; refuses what PostgreSQL cannot hold as text."""
        arrays = {name: self._array(name, values, where) for name, values in texts.items()}
        for key in self.key:
            array = arrays.get(key)
            if count and (array is None or array.null_count):
                row = 0 if array is None else pc.index(array.is_null(), True).as_py()
                self.refuse_value(key, where(row), "it is empty, and is the key")
        return pa.table(arrays)

    def _array(self, column: str, values: Any, where: Callable[[int], str]) -> Any:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else None
        if array is None:
            try:
                array = pa.array(values, pa.string())
            except UnicodeEncodeError:
                row = next(n for n, value in enumerate(values) if not _is_unicode(value))
                self.refuse_value(column, where(row), "it contains an unpaired surrogate")
        if array.type in (pa.string(), pa.large_string()):
            nul = pc.index(pc.match_substring(array, "\x00"), True).as_py()
            if nul >= 0:
                self.refuse_value(column, where(nul), "PostgreSQL's text cannot hold NUL")
        return array

    def settle(self, existing: Mapping[str, str]) -> dict[str, str]:
        """The type of each column: that of its values, widened by that of the existing column."""
        settled = {
            column: self._settled(column, seen, existing.get(column))
            for column, seen in self._seen.items()
        }
        for column in self._known - settled.keys():
            settled[column] = self._declared.get(column) or plain(existing.get(column) or TEXT)
        return settled

    def _settled(self, column: str, seen: Mapping[str, str], existing: str | None) -> str:
        declared = self._declared.get(column)
        if declared is not None:
            return declared
        first, *others = seen
        kind = first
        for other in others:
            kind = self._wider(kind, other) or self._refuse_mix(
                column, f"{first} ({seen[first]}) and {other} ({seen[other]})"
            )
        if existing is None:
            return kind
        had = plain(existing)
        return self._wider(had, kind, loaded=True) or self._refuse_mix(
            column, f"{had} (in the table) and {kind} ({seen[first]})"
        )

    def _wider(self, kind: str, other: str, *, loaded: bool = False) -> str | None:
        wider = widen(kind, other)
        if wider is None and (self._as_text or _are_texts(kind, other, loaded)):
            return TEXT
        return wider

    def _refuse_mix(self, column: str, what: str) -> NoReturn:
        advice = f'types = {{ {_shown(self._sources.get(column, column))} = "text" }}'
        self.refuse(f"the column {column} would be {what}: declare its type, as in {advice}")


def _are_texts(kind: str, other: str, loaded: bool) -> bool:
    """Texts that look like times count as text next to others; times already loaded do not."""
    return {kind, other} == {TEXT, TIMESTAMPTZ} and (not loaded or kind == TEXT)


def _is_unicode(value: str | None) -> bool:
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _rename(source: str) -> str:
    return f'rename it, as in rename = {{ {_shown(source)} = "other" }}'


def _shown(name: str) -> str:
    short = name if len(name) <= _MOST_SHOWN else name[:_MOST_SHOWN] + "..."
    return '"' + "".join(c if c.isprintable() and c != '"' else "?" for c in short) + '"'


def row_name(key: Sequence[str], row: Mapping[str, Any], number: int) -> str:
    """A row as an error message names it: by its number and, where it has one, by its key."""
    values = [f"{name}={str(row[name])[:_MOST_SHOWN]}" for name in key if name in row]
    return f"row {number}" + (f" ({', '.join(values)})" if values else "")
