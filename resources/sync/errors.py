"""What an error of a load means for a retry: some errors pass, others never do."""

import errno
import re
from collections.abc import Iterator

import psycopg
import psycopg2
import pyarrow as pa
import requests
import sqlalchemy.exc
from dlt.common.exceptions import TerminalException

from resources.sync.source_config import Source
from runyard.errors import NonRetriable, RetryAfter

_PASSING = (
    psycopg.OperationalError,
    psycopg2.OperationalError,
    sqlalchemy.exc.OperationalError,
    psycopg2.errors.InternalError_,
    requests.ConnectionError,
    requests.Timeout,
    ConnectionError,
    TimeoutError,
    MemoryError,
)
_FINAL = (
    psycopg.Error,
    psycopg2.Error,
    sqlalchemy.exc.SQLAlchemyError,
    pa.ArrowException,
    TerminalException,
    ValueError,
    TypeError,
    LookupError,
    PermissionError,
)
# Messages of PostgreSQL and MySQL, whose drivers have no code for a failed login.
_NOT_LET_IN = re.compile(
    r"password authentication failed|no pg_hba\.conf entry|Access denied for user|Unknown database"
    r'|(?:role|database) "[^"]*" does not exist'
)


def meaning(error: BaseException, source: Source) -> Exception:
    """The error of a failed load, as one that says whether to retry."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, RetryAfter | NonRetriable):
            return cause
        if isinstance(cause, requests.JSONDecodeError):
            return ConnectionError(f"{source.name} does not answer with JSON")
        if _is_limit(cause) or (isinstance(cause, _PASSING) and _NOT_LET_IN.search(str(cause))):
            return NonRetriable(f"{source.name} cannot be loaded: {_line(cause)}")
        if isinstance(cause, _PASSING) or _is_no_room(cause):
            kind = type(cause).__name__
            return ConnectionError(f"{source.name} does not answer: {kind}: {_line(cause)}")
    final = [cause for cause in causes if isinstance(cause, _FINAL)]
    deepest = (final or causes)[-1]
    message = f"{source.name} cannot be loaded: {type(deepest).__name__}: {_line(deepest)}"
    return NonRetriable(message) if final else RuntimeError(message)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, some of which dlt stores in attributes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        kept = getattr(error, "client_exception", None) or getattr(error, "exception", None)
        inner = kept if isinstance(kept, BaseException) and id(kept) not in seen else None
        error = inner or error.__cause__ or error.__context__


def _is_limit(error: BaseException) -> bool:
    """Whether it is a limit of PostgreSQL, which its drivers report as an operational error."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    return isinstance(state, str) and state.startswith("54")


def _is_no_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EMFILE, errno.EIO)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
