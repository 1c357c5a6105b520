"""What the daemon logs while the code server restarts."""

import logging
import sys

from dagster._core.errors import DagsterUserCodeUnreachableError

from runyard.processes.daemon import OutageFilter


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
    outages = OutageFilter()
    records = [record(DagsterUserCodeUnreachableError("unreachable")) for _ in range(250)]
    logged = [entry for entry in records if outages.filter(entry)]
    assert [entry.getMessage() for entry in logged] == [
        "the code server is unreachable; trying again"
    ]
    assert logged[0].exc_info is None


def test_every_other_error_is_logged() -> None:
    outages = OutageFilter()
    assert all(outages.filter(record(ValueError("wrong"))) for _ in range(3))
