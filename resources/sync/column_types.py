"""The PostgreSQL types of synced columns, and which of them widen into which."""

from typing import Literal

TEXT = "text"
BIGINT = "bigint"
NUMERIC = "numeric"
DOUBLE = "double precision"
BOOLEAN = "boolean"
JSONB = "jsonb"
BYTEA = "bytea"
UUID = "uuid"
DATE = "date"
INTERVAL = "interval"
TIME = "time without time zone"
TIMETZ = "time with time zone"
TIMESTAMP = "timestamp without time zone"
TIMESTAMPTZ = "timestamp with time zone"

# The names of types in a source's declaration.
Declared = Literal[
    "text",
    "bigint",
    "numeric",
    "double",
    "boolean",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "bytea",
]
_DECLARED = {
    "double": DOUBLE,
    "time": TIME,
    "timestamp": TIMESTAMP,
    "timestamptz": TIMESTAMPTZ,
    "json": JSONB,
}

_WHOLE = ("smallint", "integer", BIGINT)
_BINARY = ("real", DOUBLE)


def declared_type(name: Declared) -> str:
    """PostgreSQL's name of a type."""
    return _DECLARED.get(name, name)


def plain(kind: str) -> str:
    """A type in the form in which types are compared: every text is `text`, whatever its length."""
    return TEXT if without_modifier(kind) in ("character varying", "varchar") else kind


def widen(kind: str, other: str) -> str | None:
    """The type that holds the values of both exactly and is of the same sort; None without one."""
    if kind == other:
        return kind
    bare = {without_modifier(kind), without_modifier(other)}
    if len(bare) == 1:
        return bare.pop()
    if bare <= set(_WHOLE):
        return max(bare, key=_WHOLE.index)
    if bare <= set(_BINARY):
        return DOUBLE
    if bare <= {*_WHOLE, *_BINARY, NUMERIC}:
        return NUMERIC
    if bare == {"json", JSONB}:
        return "json"
    return None


def without_modifier(kind: str) -> str:
    """`numeric(10,2)` -> `numeric`, `timestamp(3) with time zone` without its `(3)`."""
    head, bracket, tail = kind.partition("(")
    return head + tail.partition(")")[2] if bracket and not kind.endswith("[]") else kind
