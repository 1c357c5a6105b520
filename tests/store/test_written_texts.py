"""Texts as steps write them: saved in pieces, the latest attempt's, for a day."""

from datetime import timedelta

import pytest

from runyard import clock, send
from runyard.engine import batch_claims, batch_leases, housekeeping, progress
from runyard.engine.background_saver import BackgroundSaver
from runyard.engine.progress import Reporter
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import fetch_all
from tests.conftest import wait_until
from tests.tables import rows, table_away


@pytest.fixture
def reporter(function: Function) -> Reporter:
    """A reporter of a running step."""
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


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test itself stores what is written."""
    monkeypatch.setattr(progress, "_saver", BackgroundSaver("never", "texts", 1e6))


@pytest.fixture
def own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has logged no error yet: it logs each kind once a minute."""
    monkeypatch.setattr(progress, "_saver", BackgroundSaver("of a test", "texts", 0.25))


def write(reporter: Reporter, *pieces: str, invocation: int = 1) -> None:
    """Write pieces, and store them as at the end of a step."""
    for piece in pieces:
        reporter.write(invocation, piece)
    reporter.save()


def test_pieces_are_joined(reporter: Reporter) -> None:
    write(reporter, "Queues ", "hold ")
    write(reporter, "the rain")
    assert written() == {"poem": "Queues hold the rain"}


def test_pieces_that_come_fast_are_stored_together(reporter: Reporter, no_thread: None) -> None:
    write(reporter, "a", "b", "c")
    assert [row["written"] for row in rows("SELECT * FROM runyard.progress")] == ["abc"]


def test_a_word_is_kept_back_once_alone(reporter: Reporter, no_thread: None) -> None:
    reporter.write(1, "Thinking")
    reporter.save_changes()
    assert written() == {}
    reporter.save_changes()
    assert written() == {"poem": "Thinking"}


def test_what_is_written_is_shown_while_the_step_is_busy_with_something_else(
    reporter: Reporter,
) -> None:
    reporter.write(1, "Thinking")
    reporter.write(1, " about rain")
    wait_until(lambda: written() == {"poem": "Thinking about rain"})


@pytest.mark.usefixtures("no_thread")
def test_a_piece_that_could_not_be_stored_is_stored_later(
    reporter: Reporter, store_url: str
) -> None:
    with table_away(store_url, "runyard.progress"):
        write(reporter, "Queues ")
    write(reporter, "hold")
    assert written() == {"poem": "Queues hold"}


@pytest.mark.usefixtures("own_thread")
def test_an_outage_is_no_error_and_is_made_good_without_another_piece(
    reporter: Reporter, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with table_away(store_url, "runyard.progress"):
        reporter.write(1, "Queues ")
        wait_until(lambda: "texts are not saved" in caplog.text)
    wait_until(lambda: written() == {"poem": "Queues "})


def test_a_piece_that_was_stored_twice_is_shown_once(reporter: Reporter) -> None:
    write(reporter, "Queues ")
    write(reporter, "hold ")
    rows(
        "INSERT INTO runyard.progress (invocation_id, step, percent, text, written, position)"
        " VALUES (1, 'poem', 0, '', 'hold the rain', 7) RETURNING id"
    )
    assert written() == {"poem": "Queues hold the rain"}


def test_secrets_are_redacted(reporter: Reporter) -> None:
    write(reporter, "see postgresql://me:hunter22@db/shop")
    assert written() == {"poem": "see postgresql://me:[redacted]@db/shop"}


def test_a_secret_that_comes_in_two_pieces_is_redacted(
    reporter: Reporter, no_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "correct-horse-battery")
    reporter.write(1, "it is correct-ho")
    reporter.save_changes()
    write(reporter, "rse-battery")
    assert written() == {"poem": "it is [redacted]"}


def test_a_secret_in_a_word_that_never_ends_is_redacted(
    reporter: Reporter, no_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "correct-horse-battery")
    reporter.write(1, "x" * 600 + "correct-ho")
    reporter.save_changes()
    write(reporter, "rse-battery")
    assert written() == {"poem": "x" * 600 + "[redacted]"}


def test_the_two_halves_of_a_character_may_come_in_two_pieces(reporter: Reporter) -> None:
    write(reporter, "rain \ud83c", "\udf27")
    assert written() == {"poem": "rain \U0001f327"}


def test_another_attempt_begins_again(reporter: Reporter, function: Function) -> None:
    write(reporter, "first ")
    write(reporter, "attempt")
    write(another(function), "second")
    assert written() == {"poem": "second"}


def test_invocations_of_a_run_write_texts_of_their_own(reporter: Reporter) -> None:
    write(reporter, "mine")
    write(reporter, "another's", invocation=2)
    assert written() == {"poem": "mine"}


def test_no_more_than_a_number_of_characters_are_saved(reporter: Reporter) -> None:
    write(reporter, *["x" * (progress.MAX_WRITTEN // 2)] * 3)
    assert len(written()["poem"]) == progress.MAX_WRITTEN


def test_a_written_piece_keeps_the_latest_report(reporter: Reporter) -> None:
    reporter.report(1, 40, "half")
    write(reporter, "text")
    assert [(row["percent"], row["text"]) for row in rows("SELECT * FROM runyard.progress")] == [
        (40.0, "half"),
        (40.0, "half"),
    ]


def test_a_written_text_is_deleted_after_a_day_and_reports_are_not(reporter: Reporter) -> None:
    reporter.report(1, 40, "half")
    write(reporter, "text")
    clock.freeze(clock.now() + timedelta(hours=25))
    try:
        housekeeping.purge()
    finally:
        clock.freeze(None)
    assert [row["written"] for row in rows("SELECT * FROM runyard.progress")] == [None]
