"""What the daemon writes while the code server is being started again."""

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


def test_a_code_server_that_is_away_is_told_once_for_all_sensors() -> None:
    shortened = _Shortened()
    kept = [
        made
        for made in (record(DagsterUserCodeUnreachableError("away")) for _ in range(250))
        if shortened.filter(made)
    ]
    assert [made.getMessage() for made in kept] == ["the code server is away; trying again"]
    assert kept[0].exc_info is None


def test_every_other_error_is_told() -> None:
    shortened = _Shortened()
    assert all(shortened.filter(record(ValueError("wrong"))) for _ in range(3))
