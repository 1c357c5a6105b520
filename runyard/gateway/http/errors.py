"""What is wrong with a request, and the one form in which it is said.

Every error is a JSON object: `status`, a `code` for programs, a sentence `error` for people, the `field` at fault where there is one, and the
`request_id`. It is the form of Inngest's event API with three fields more, so that its SDKs can read it.
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
)
from runyard.store.database import is_away

RETRY_SECONDS = 2
_MAX_PROBLEMS = 50
_LONGEST_FIELD = 200
# Of every answer that is JSON or a stream.
ANSWER_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger("runyard.gateway")


class HttpError(RunyardError):
    """Seen by the client of the HTTP API: an answer that is not what it asked for.

    Parameters
    ----------
    status, code, message
        The HTTP status, a name for programs, a sentence that says what to do.
    field
        The path of the field at fault.
    headers
        Headers of the answer.
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


_AWAY = "the database does not answer; it may have done this all the same. Send it again: an event with an id of yours, or with a seed, is there once"


def as_http_error(error: BaseException) -> HttpError:
    """What an error means for the client; what nobody foresaw is logged, and the client learns no more than that."""
    match error:
        case HttpError():
            return error
        case InvalidEvent():
            return HttpError(400, "invalid_event", str(error), error.field)
        case InvalidOption():
            return HttpError(400, "invalid_option", str(error))
        case (
            psycopg.DataError()
            | psycopg.IntegrityError()
            | psycopg.errors.RaiseException()
            | psycopg.errors.ProgramLimitExceeded()
        ):
            return HttpError(
                400,
                "invalid_value",
                f"the database does not take this: {error.diag.message_primary or error}",
            )
        case psycopg.errors.QueryCanceled():
            return HttpError(
                400,
                "query_timeout",
                "this takes too long: ask for less, with a function, a name or a time",
            )
        case (
            psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedColumn()
            | psycopg.errors.UndefinedFunction()
            | SchemaOutOfDate()
        ):
            _log.error("the tables are not those of this code: run `runyard migrate`")
            return HttpError(
                503,
                "not_migrated",
                "this is being upgraded; nothing was done. Send it again",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            message = "another transaction holds what this needs, such as an event with the same id; nothing was done. Send it again"
            return HttpError(503, "locked", message, headers={"Retry-After": str(RETRY_SECONDS)})
        case psycopg.OperationalError(sqlstate=str(state)) if state.startswith("54"):
            return HttpError(
                400,
                "invalid_value",
                f"the database does not take this: {error.diag.message_primary or error}",
            )
        case DatabaseBusy():
            return _busy(str(error))
        case psycopg.OperationalError() if not is_away(error):
            return _busy(f"the database cannot do this now: {error.diag.message_primary}")
        case DatabaseUnavailable() | psycopg.OperationalError():
            _log.warning("the database does not answer: %s", type(error).__name__)
            return HttpError(
                503, "database_unavailable", _AWAY, headers={"Retry-After": str(RETRY_SECONDS)}
            )
        case RunyardError():
            return HttpError(400, "refused", str(error))
        case ClientDisconnect():
            return HttpError(
                400, "client_disconnected", "the client went away before its request was whole"
            )
        case _:
            # Where it happened, but not its message: that may hold a part of the request.
            _log.error(
                "%s, which nobody foresaw:\n%s",
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            return HttpError(
                500,
                "internal",
                "something went wrong here that is not your fault; the log has it under this request id",
            )


def _busy(says: str) -> HttpError:
    _log.warning("%s", says)
    return HttpError(
        503,
        "database_busy",
        f"{says}; nothing was done. Send it again",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def error_response(
    request: HTTPConnection, problem: HttpError, more: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The answer that tells of a problem."""
    body = {
        "status": problem.status,
        "code": problem.code,
        "error": str(problem),
        "request_id": request.state.request_id,
        **(more or {}),
    }
    if problem.field:
        body["field"] = problem.field
    return JSONResponse(body, problem.status, headers={**ANSWER_HEADERS, **problem.headers})


def invalid(error: ValidationError) -> HttpError:
    """What is wrong with a query or a body; of very much the beginning."""
    problems = [
        (
            ".".join(str(part)[:_LONGEST_FIELD] for part in found["loc"]),
            found["msg"].removeprefix("Value error, "),
        )
        for found in error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]
    ]
    return HttpError(
        400,
        "invalid_field",
        "; ".join(f"{path}: {text}" if path else text for path, text in problems)[:2000],
        problems[0][0],
    )
