"""What a step prints and logs while it handles an invocation is kept for that invocation."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import OpExecutionContext

from runyard import Item, Retry, Run, definitions, function, step
from runyard.cli.main import main
from runyard.engine import step_log, step_logs
from runyard.engine.background_saver import BackgroundSaver
from runyard.engine.retention import sweep
from runyard.engine.step_log import StepLog
from runyard.functions import registry
from runyard.store import database
from runyard.syntax.retention_policy import Retention
from runyard.testing import Invocation, Yard
from tests.conftest import wait_until
from tests.tables import table_away

shop = logging.getLogger("shop")


@contextmanager
def yard_of(*made: Any) -> Iterator[Yard]:
    with Yard(definitions(*made)) as own_yard:
        yield own_yard


@pytest.fixture
def logged(yard: Yard) -> Iterator[Callable[..., Invocation]]:
    """Runs a Python function as a function of one step, and returns its invocation."""

    def run(do: Callable[..., Any], **options: Any) -> Invocation:
        with yard_of(function("logs/go", name="logging", **options)(do)) as own_yard:
            return own_yard.run("logging")

    with registry.use():
        yield run


def texts(invocation: Invocation) -> list[str]:
    return [text for _, _, text in invocation.log]


def test_printed_lines_are_kept(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        print("one", 1)
        print("two\nthree", end="")
        print(" and four", file=sys.stdout)

    assert logged(do).log == [
        ("logging", "stdout", "one 1"),
        ("logging", "stdout", "two"),
        ("logging", "stdout", "three and four"),
    ]


def test_a_line_without_an_end_is_kept(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        print("half", end="")

    assert texts(logged(do)) == ["half"]


def test_standard_error_is_told_apart(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        print("oh", file=sys.stderr)

    assert logged(do).log == [("logging", "stderr", "oh")]


def test_log_records_are_kept_with_their_level(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        shop.warning("only %d left", 3)
        shop.debug("not let through")

    assert logged(do).log == [("logging", "warning", "only 3 left")]


def test_a_record_that_is_printed_too_is_kept_once(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        handler = logging.StreamHandler(sys.stderr)
        shop.addHandler(handler)
        try:
            shop.warning("twice?")
        finally:
            shop.removeHandler(handler)

    assert texts(logged(do)) == ["twice?"]


def test_the_traceback_of_a_record_is_kept(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        try:
            raise KeyError("card")
        except KeyError:
            shop.exception("no card")

    kept = texts(logged(do))
    assert kept[0] == "no card"
    assert kept[-1] == "KeyError: 'card'"


def test_a_record_that_cannot_be_formatted_fails_nothing(
    logged: Callable[..., Invocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def do(item: Item) -> str:
        shop.warning("%d", "no number")
        return "done"

    assert logged(do).output == "done"


def test_what_dagster_logs_for_an_op_is_kept_once(yard: Yard) -> None:
    @step
    def talk(item: Item, context: OpExecutionContext) -> None:
        context.log.info("by Dagster")

    def talking(run: Run) -> Any:
        return talk(run)

    with registry.use(), yard_of(function("logs/go")(talking)) as own_yard:
        assert own_yard.run("talking").log == [("talk", "info", "by Dagster")]


def test_what_fails_keeps_its_log(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        print("before")
        raise RuntimeError("no")

    invocation = logged(do, retry=Retry(attempts=1))
    assert invocation.status == "failed"
    assert texts(invocation) == ["before"]


def test_each_attempt_has_its_log(yard: Yard) -> None:
    def do(item: Item) -> None:
        print("attempt", item.attempt)
        if item.attempt == 1:
            raise RuntimeError("again")

    with (
        registry.use(),
        yard_of(
            function("logs/go", name="twice", retry=Retry(attempts=2, delays=(1.0,), jitter=0))(do)
        ) as own_yard,
    ):
        invocation = own_yard.run("twice")
        own_yard.advance("1s")
        assert texts(invocation) == ["attempt 1", "attempt 2"]


@pytest.mark.parametrize("threads", [1, 4])
def test_items_of_a_batch_have_logs_of_their_own(yard: Yard, threads: int) -> None:
    @step(threads=threads)
    def talk(item: Item) -> None:
        print("number", item.event.data["n"])

    check_numbers(talk)


def test_async_steps_have_logs_of_their_own(yard: Yard) -> None:
    @step
    async def talk(item: Item) -> None:
        print("number", end=" ")
        await asyncio.sleep(0.01)
        await asyncio.to_thread(print, item.event.data["n"])

    check_numbers(talk)


def check_numbers(talk: Any) -> None:
    def talking(run: Run) -> Any:
        return talk(run)

    with registry.use(), yard_of(function("logs/go")(talking)) as own_yard:
        sent = [own_yard.send("logs/go", {"n": n}) for n in range(8)]
        own_yard.work()
        assert [texts(each.invocation) for each in sent] == [[f"number {n}"] for n in range(8)]


def test_a_call_for_many_logs_for_each_of_them(yard: Yard) -> None:
    @step
    def talk(items: Sequence[Item]) -> list[int]:
        print(len(items), "at once")
        return [item.id for item in items]

    def talking(run: Run) -> Any:
        return talk(run)

    with registry.use(), yard_of(function("logs/go")(talking)) as own_yard:
        sent = [own_yard.send("logs/go", {"n": n}) for n in range(3)]
        own_yard.work()
        assert [texts(each.invocation) for each in sent] == [["3 at once"]] * 3


def test_a_log_ends_after_so_many_lines(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        for number in range(step_log.MAX_LINES + 7):
            print(number)

    invocation = logged(do)
    assert texts(invocation) == [str(number) for number in range(step_log.MAX_LINES)]
    assert stored("dropped") == [7]


def test_a_log_ends_after_so_many_characters(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        for _ in range(50):
            print("x" * 1_000_000)

    lines = texts(logged(do))
    assert sum(map(len, lines)) < step_log.MAX_CHARACTERS + 2 * step_log.MAX_LINE
    assert {len(line) for line in lines} == {step_log.MAX_LINE + len(" ...")}


def test_of_a_progress_bar_its_last_state_is_kept(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        for percent in range(101):
            print(f"\r{percent} %", end="", file=sys.stderr)
        print("\x1b[32mdone\x1b[0m")

    assert texts(logged(do)) == ["done", "100 %"]


def test_secrets_are_redacted(
    logged: Callable[..., Invocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "correct-horse-battery")

    def do(item: Item) -> None:
        print("key: correct-horse-battery")

    assert texts(logged(do)) == ["key: [redacted]"]


def test_what_the_database_cannot_store_is_replaced(
    logged: Callable[..., Invocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own handlers would get the text, too, and cannot report half a character.
    monkeypatch.setattr(shop, "propagate", False)

    def do(item: Item) -> None:
        shop.warning("nul \0, half \ud800")

    assert texts(logged(do)) == ["nul \ufffd, half \ufffd"]


def test_nothing_is_written_for_a_step_that_is_silent(logged: Callable[..., Invocation]) -> None:
    logged(lambda item: None)
    logged(lambda item: print("", end=""))
    assert stored("step") == []


def test_output_outside_of_a_step_is_of_nobody(logged: Callable[..., Invocation]) -> None:
    logged(lambda item: None)
    print("later")
    assert step_log.current.get() is None
    assert stored("step") == []


def test_the_streams_are_the_programs_own_again(logged: Callable[..., Invocation]) -> None:
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    logged(lambda item: print("x"))
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before


def test_what_is_printed_is_still_printed(
    logged: Callable[..., Invocation], capsys: pytest.CaptureFixture[str]
) -> None:
    logged(lambda item: print("to both"))
    assert "to both" in capsys.readouterr().out


def test_a_step_that_is_still_running_shows_its_log(logged: Callable[..., Invocation]) -> None:
    seen: list[Any] = []

    def do(item: Item) -> None:
        print("so far")
        for _ in range(500):
            seen[:] = stored("lines")
            if seen:
                break
            step_log.time.sleep(0.02)
        print("and on")

    invocation = logged(do)
    assert [text for _, _, text in seen[0]] == ["so far"]
    assert texts(invocation) == ["so far", "and on"]


def test_a_log_that_could_not_be_saved_is_saved_while_its_step_runs_on(
    logged: Callable[..., Invocation],
    runyard_database: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A thread that has logged no error yet: it logs each kind once a minute.
    monkeypatch.setattr(step_logs, "_saver", BackgroundSaver("of a test", "logs", 0.25))
    seen: list[Any] = []

    def do(item: Item) -> None:
        with table_away(runyard_database, "runyard.step_logs"):
            print("before the outage")
            wait_until(lambda: "logs are not saved" in caplog.text)
        seen.extend(wait_until(lambda: stored("lines")))

    logged(do)
    assert [text for _, _, text in seen[0]] == ["before the outage"]


@pytest.fixture
def full_log() -> StepLog:
    """A log that is full, has dropped a line, and is saved."""
    log = StepLog({1: 1}, "run", RLock(), lambda log: None)
    log.write("stdout", "line\n" * (step_log.MAX_LINES + 1))
    log.rows()
    return log


@pytest.mark.parametrize("more", ["one more\n", "less than a line"])
def test_a_full_log_is_not_saved_again_while_its_step_prints_on(
    full_log: StepLog, more: str
) -> None:
    full_log.write("stdout", more)
    assert not full_log.changed


def test_that_a_log_is_not_whole_is_saved_at_once() -> None:
    log = StepLog({1: 1}, "run", RLock(), lambda log: None)
    log.write("stdout", "line\n" * step_log.MAX_LINES)
    log.rows()
    log.write("stdout", "one more\n")
    assert log.changed


def test_what_a_full_log_has_dropped_is_saved_at_the_end(
    logged: Callable[..., Invocation],
) -> None:
    def do(item: Item) -> None:
        for number in range(step_log.MAX_LINES + 1):
            print(number)
        wait_until(lambda: stored("dropped") == [1])
        print("one more")
        print("less than a line", end="")

    logged(do)
    assert stored("dropped") == [2]


def test_a_log_is_deleted_with_its_invocation(yard: Yard) -> None:
    with (
        registry.use(),
        yard_of(function("logs/go", name="old")(lambda item: print("x"))) as own_yard,
    ):
        own_yard.run("old")
        own_yard.advance("40d")
        sweep(retention=Retention.parse("30d"))
    assert stored("step") == []


def test_a_log_that_cannot_be_saved_fails_nothing(
    logged: Callable[..., Invocation], runyard_database: str
) -> None:
    with table_away(runyard_database, "runyard.step_logs"):
        invocation = logged(lambda item: print("lost"))
    assert invocation.status == "succeeded"


def test_the_command_prints_the_log_of_an_invocation(logged: Callable[..., Invocation]) -> None:
    def do(item: Item) -> None:
        print("packing", "\x1b]0;title")

    result = CliRunner().invoke(main, ["logs", str(logged(do).id)])
    assert result.output.endswith("  logging  stdout  packing \\x1b]0;title\n")


def test_the_command_says_that_there_is_no_such_invocation(yard: Yard) -> None:
    result = CliRunner().invoke(main, ["logs", "987654"])
    assert result.exit_code == 1
    assert result.output == "runyard: there is no invocation 987654\n"


def stored(column: str) -> list[Any]:
    with database.connection() as connection:
        rows = connection.execute(f"SELECT {column} FROM runyard.step_logs ORDER BY id".encode())
        return [row[column] for row in rows]
