"""Texts as steps write them: saved in pieces, the latest attempt's, for a day."""

from datetime import timedelta

import pytest

from runyard import clock, send
from runyard.engine import batch_claims, batch_leases, housekeeping, progress
from runyard.engine.progress import Reporter
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import fetch_all
from tests.tables import rows


@pytest.fixture
def reporter(function: Function, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    """A reporter of a running step that saves every piece at once."""
    monkeypatch.setattr(progress, "_MIN_WRITE_INTERVAL", 0.0)
    return another(function)


def another(function: Function) -> Reporter:
    """A reporter of a run of its own."""
    send("greet/requested")
    [claim, *_] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, claim.batch_id)
    return Reporter(claim.batch_id, claim.batch_id, "poem")


def written() -> dict[str, str]:
    """What the steps of the first invocation have written."""
    with database.connection() as connection:
        found = fetch_all(connection, "written_texts", invocation=1)
    return {row["step"]: row["text"] for row in found}


def test_pieces_are_joined(reporter: Reporter) -> None:
    for piece in ("Queues ", "hold ", "the rain"):
        reporter.write(1, piece)
    assert written() == {"poem": "Queues hold the rain"}


def test_pieces_that_come_fast_are_saved_together(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter.write(1, "a")
    monkeypatch.setattr(progress, "_MIN_WRITE_INTERVAL", 1e9)
    reporter.write(1, "b")
    reporter.write(1, "c")
    assert written() == {"poem": "a"}
    monkeypatch.setattr(progress, "_MIN_WRITE_INTERVAL", 0.0)
    reporter.write(1, "d")
    assert written() == {"poem": "abcd"}
    assert len(rows("SELECT FROM runyard.progress")) == 2


def test_another_attempt_begins_again(reporter: Reporter, function: Function) -> None:
    reporter.write(1, "first ")
    reporter.write(1, "attempt")
    another(function).write(1, "second")
    assert written() == {"poem": "second"}


def test_invocations_of_a_run_write_texts_of_their_own(reporter: Reporter) -> None:
    reporter.write(1, "mine")
    reporter.write(2, "another's")
    assert written() == {"poem": "mine"}


def test_no_more_than_a_number_of_characters_are_saved(reporter: Reporter) -> None:
    for _ in range(3):
        reporter.write(1, "x" * (progress.MAX_WRITTEN // 2))
    assert len(written()["poem"]) == progress.MAX_WRITTEN


def test_a_written_piece_keeps_the_latest_report(reporter: Reporter) -> None:
    reporter.report(1, 40, "half")
    reporter.write(1, "text")
    assert [(row["percent"], row["text"]) for row in rows("SELECT * FROM runyard.progress")] == [
        (40.0, "half"),
        (40.0, "half"),
    ]


def test_a_written_text_is_deleted_after_a_day_and_reports_are_not(reporter: Reporter) -> None:
    reporter.report(1, 40, "half")
    reporter.write(1, "text")
    clock.freeze(clock.now() + timedelta(hours=25))
    try:
        housekeeping.purge()
    finally:
        clock.freeze(None)
    assert [row["written"] for row in rows("SELECT * FROM runyard.progress")] == [None]
