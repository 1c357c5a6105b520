"""The one format of errors, and what each exception means for the client.

Every error is a JSON object: `status`, a `code` for programs, a sentence `error` for people, the
`field` at fault where there is one, and the `request_id`. It is the format of Inngest's event API
with three more fields, so that Inngest's SDKs can read it.
"""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import psycopg
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse

from runyard.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    InvalidEvent,
    InvalidOption,
    RunyardError,
    SchemaOutOfDate,
    SchemaUnusable,
)
from runyard.store.database import is_away

RETRY_SECONDS = 2
_MAX_PROBLEMS = 50
_LONGEST_FIELD = 200
# Headers of every response that is JSON or a stream.
RESPONSE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger("runyard.gateway")


class HttpError(RunyardError):
    """An error response to a client of the HTTP API.

    Parameters
    ----------
    status, code, message
        The HTTP status, a name for programs, and a sentence that says what to do.
    field
        The path of the field at fault.
    headers
        Headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.headers = dict(headers or {})


class ErrorBody(BaseModel):
    """An error."""

    status: int
    code: str
    error: str
    field: str | None = None
    request_id: str
    ids: list[str] | None = None


def as_http_error(error: BaseException) -> HttpError:
    """Translate an exception; an unexpected one is logged, and the client learns nothing of it."""
    match error:
        case HttpError():
            return error
        case InvalidEvent():
            return HttpError(400, "invalid_event", str(error), error.field)
        case InvalidOption():
            return HttpError(400, "invalid_option", str(error))
        case psycopg.Error() | DatabaseBusy() | DatabaseUnavailable():
            return _database_error(error)
        case SchemaOutOfDate() | SchemaUnusable():
            return _wrong_schema(str(error))
        case RunyardError():
            return HttpError(400, "refused", str(error))
        case ClientDisconnect():
            message = "the client disconnected before its request was complete"
            return HttpError(400, "client_disconnected", message)
        case _:
            return _unexpected(error)


def _database_error(error: psycopg.Error | RunyardError) -> HttpError:
    match error:
        case (
            psycopg.DataError()
            | psycopg.IntegrityError()
            | psycopg.errors.RaiseException()
            | psycopg.errors.ProgramLimitExceeded()
        ):
            return _invalid_value(error)
        case psycopg.errors.QueryCanceled():
            message = "this query takes too long: narrow it by a function, a name or a time"
            return HttpError(400, "query_timeout", message)
        case (
            psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedColumn()
            | psycopg.errors.UndefinedFunction()
            | psycopg.errors.InvalidSchemaName()
        ):
            return _wrong_schema(
                "the database schema does not match this code: `runyard migrate --check` says what"
                " to do"
            )
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            return _retry(
                "locked",
                "another transaction holds a lock that this needs, for example on an event with"
                " the same id; nothing was done",
            )
        case psycopg.OperationalError(sqlstate=str(state)) if state.startswith("54"):
            return _invalid_value(error)
        case DatabaseBusy():
            return _busy(str(error))
        case psycopg.OperationalError() if not is_away(error):
            return _busy(f"the database cannot do this now: {error.diag.message_primary}")
        case DatabaseUnavailable() | psycopg.OperationalError():
            # The text of psycopg's errors names hosts and users; ours names what is safe to name.
            reason = error if isinstance(error, DatabaseUnavailable) else type(error).__name__
            _log.warning("the database does not respond: %s", reason)
            return HttpError(
                503,
                "database_unavailable",
                "the database does not respond, and may or may not have done this. Send it again:"
                " an event with an id or a seed of yours is not duplicated",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        case _:
            return _unexpected(error)


def _wrong_schema(message: str) -> HttpError:
    _log.error("%s", message)
    return _retry("not_migrated", "the service is being upgraded; nothing was done")


def _invalid_value(error: psycopg.Error) -> HttpError:
    message = f"the database rejects this: {error.diag.message_primary or error}"
    return HttpError(400, "invalid_value", message)


def _busy(reason: str) -> HttpError:
    _log.warning("%s", reason)
    return _retry("database_busy", f"{reason}; nothing was done")


def _retry(code: str, reason: str) -> HttpError:
    return HttpError(
        503, code, f"{reason}. Send it again", headers={"Retry-After": str(RETRY_SECONDS)}
    )


def _unexpected(error: BaseException) -> HttpError:
    # The log gets the traceback but not the message, which may contain a part of the request.
    _log.error(
        "unexpected %s:\n%s",
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    message = "internal error, which is not your fault; the log has it under this request id"
    return HttpError(500, "internal", message)


def error_response(
    request: HTTPConnection, error: HttpError, fields: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The response for an error; `fields` are added to its body."""
    body = {
        "status": error.status,
        "code": error.code,
        "error": str(error),
        "request_id": request.state.request_id,
        **(fields or {}),
    }
    if error.field:
        body["field"] = error.field
    return JSONResponse(body, error.status, headers={**RESPONSE_HEADERS, **error.headers})


def invalid_field(error: ValidationError) -> HttpError:
    """What is wrong with a query or a body: the first problems, if there are very many."""
    problems = [
        (
            ".".join(str(part)[:_LONGEST_FIELD] for part in details["loc"]),
            details["msg"].removeprefix("Value error, "),
        )
        for details in error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]
    ]
    message = "; ".join(f"{path}: {text}" if path else text for path, text in problems)
    return HttpError(400, "invalid_field", message[:2000], problems[0][0])
