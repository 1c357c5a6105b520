"""The declared sources: one file (SYNC_SOURCES), parsed and validated at once."""

import os
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resources.settings import SyncSettings
from resources.sync.column_types import Declared
from runyard.errors import RunyardError

_POSTGRES = re.compile(r"postgres(ql)?(\+\w+)?://")
_NAME = r"^[a-z][a-z0-9_]{0,40}$"
Name = Annotated[str, Field(pattern=_NAME)]


DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}


class SyncMisdeclared(RunyardError):
    """The file of sources is invalid; the text says where."""


class Table(BaseModel):
    """One table of a source.

    Attributes
    ----------
    name, name_in_source
        Its name here, and in the SQL database where that is different (`User`).
    key
        The columns that identify a row: rows are merged by them. Without a key, each load replaces
        the whole table.
    cursor
        A column that increases with every change, so that a load reads only newer rows.
    deleted
        A column that is set (or true) in deleted rows.
    path, pages, page_size, rows, cursor_param, etag
        REST: the path, the pagination (`offset`, `page`, `cursor`, `link`, `single`), the JSONPath
        of the rows in the answer, the parameter for the cursor, and whether to send the ETag of the
        last answer.
    pattern, format
        Files: which ones, and their format.
    delimiter, encoding
        CSV: the format of the files, where it cannot be detected.
    types
        The types of columns whose values do not show it, by their names in the source.
    rename
        Other names for columns, by their names in the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    name_in_source: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    key: list[str] = []
    cursor: str | None = None
    deleted: str | None = None
    columns: list[str] = []
    path: str | None = None
    pages: Literal["offset", "page", "cursor", "link", "single"] = "single"
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 500
    next_path: str = "next"
    rows: str = "$"
    cursor_param: str | None = None
    etag: bool = False
    pattern: str | None = None
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    delimiter: Literal["comma", "semicolon", "tab", "pipe"] | None = None
    encoding: str | None = None
    types: dict[str, Declared] = {}
    rename: dict[str, str] = {}

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, encoding: str | None) -> str | None:
        try:
            "a".encode(encoding or "utf-8")
        except LookupError:
            raise ValueError(f"{encoding!r} is not an encoding") from None
        return encoding

    @property
    def source_name(self) -> str:
        """The table's name in the source."""
        return self.name_in_source or self.name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.cursor or self.deleted or self.etag) and not self.key:
            raise ValueError(
                "cursor, deleted and etag need a key: a table without one is replaced as a whole"
            )
        return self


class Source(BaseModel):
    """One source: a REST API, a SQL database, or files.

    With `changes = "ask"`, a changed schema is refused until somebody agrees; with `apply`, it is
    reported and applied.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    kind: Literal["rest", "sql", "files"]
    url: str | None = None
    url_env: str | None = None
    token_env: str | None = None
    schema_: str | None = Field(default=None, alias="schema")
    schedule: str | None = None
    fresh_within_hours: float | None = None
    changes: Literal["apply", "ask"] = "apply"
    apply: Literal["suppressions"] | None = None
    table: Annotated[list[Table], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.url is None and self.url_env is None:
            raise ValueError("give url or url_env")
        names = [table.name for table in self.table]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two tables have the name {twice[0]}: give one of them another")
        for table in self.table:
            missing = {
                "rest": table.path is None and "path",
                "files": table.pattern is None and "pattern",
            }.get(self.kind)
            if missing:
                raise ValueError(f"table {table.name}: {missing} is missing")
        return self

    @property
    def dataset(self) -> str:
        """The schema of its tables."""
        return f"sync_{self.name}"

    def address(self) -> str | None:
        """Its URL; None while it is not switched on."""
        url = (os.environ.get(self.url_env) if self.url_env else None) or self.url
        return url if url and (self.token_env is None or os.environ.get(self.token_env)) else None

    def is_postgres(self) -> bool:
        """Whether it is another PostgreSQL."""
        return self.kind == "sql" and bool(_POSTGRES.match(self.address() or ""))

    def variables(self) -> list[str]:
        """The environment variables that switch it on."""
        return [name for name in (None if self.url else self.url_env, self.token_env) if name]


@lru_cache(maxsize=4)
def _read(path: str) -> dict[str, Source]:
    try:
        declared = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("source", [])
        sources = [Source.model_validate(entry) for entry in declared]
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SyncMisdeclared(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SyncMisdeclared(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise SyncMisdeclared(f"{path}: two sources have the same name")
    return {source.name: source for source in sources}


def sources() -> dict[str, Source]:
    """All declared sources by name; raises `SyncMisdeclared`."""
    return _read(str(SyncSettings.read().sync_sources))
