"""What the daemon logs while the code server restarts."""

import logging
import sys

from dagster._core.errors import DagsterUserCodeUnreachableError

from runyard.processes.daemon import _Shortened


def record(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception:
        return logging.LogRecord(
            "daemon",
            logging.ERROR,
            __file__,
            1,
            "Sensor %s caught an error",
            ("a",),
            sys.exc_info(),
        )


def test_an_unreachable_code_server_is_logged_once_for_all_sensors() -> None:
    shortened = _Shortened()
    records = [record(DagsterUserCodeUnreachableError("away")) for _ in range(250)]
    logged = [each for each in records if shortened.filter(each)]
    assert [each.getMessage() for each in logged] == ["the code server is away; trying again"]
    assert logged[0].exc_info is None


def test_every_other_error_is_logged() -> None:
    shortened = _Shortened()
    assert all(shortened.filter(record(ValueError("wrong"))) for _ in range(3))
