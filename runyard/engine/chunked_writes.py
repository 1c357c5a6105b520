"""Writes of many rows: in chunks that fit into a statement, and without what is rejected."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psycopg

# PostgreSQL takes statements of 1 GB and JSON values of 256 MB, but holds them in memory several
# times.
_MAX_CHARACTERS = 64 * 1024 * 1024
# The errors caused by the values in a statement: data (22), constraints (23), limits (54, XX000),
# text that cannot be encoded.
REJECTED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.InternalError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    UnicodeEncodeError,
)

T = TypeVar("T")


def chunks(sized: Sequence[tuple[T, int]]) -> Iterator[list[T]]:
    """Split rows, each given with its approximate size, into chunks that fit into a statement."""
    chunk: list[T] = []
    total = 0
    for row, size in sized:
        if chunk and total + size > _MAX_CHARACTERS:
            yield chunk
            chunk, total = [], 0
        chunk.append(row)
        total += size
    if chunk:
        yield chunk


def bisect_rejected(rows: Sequence[T], write: Callable[[Sequence[T]], None]) -> list[tuple[T, str]]:
    """Write rows in one statement, or in halves when the database rejects one of them.

    Returns the rejected rows, each with the reason; all others are written.
    """
    try:
        write(rows)
    except REJECTED as error:
        if len(rows) == 1:
            reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            return [(rows[0], reason or str(error))]
        middle = len(rows) // 2
        return bisect_rejected(rows[:middle], write) + bisect_rejected(rows[middle:], write)
    return []
