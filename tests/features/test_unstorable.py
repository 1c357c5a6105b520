"""Values that no database can store: they fail their own invocation, and no other one."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runyard import Event, Item, NonRetriable, RetryAfter
from runyard.testing import Invocation, Yard
from tests.features.functions import deeds

HALF = "\ud83d"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaving(Exception):
    def __str__(self) -> str:
        sys.exit("no text")


class Timeless(RetryAfter):
    def __init__(self) -> None:
        super().__init__("soon", 1)
        self.when: Any = "soon"


def caused() -> Exception:
    error = ValueError("outer")
    error.__cause__ = ValueError(f"inner {HALF}")
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "half an emoji": lambda: ValueError(f"upstream said: {HALF}"),
    "a file name that is not UTF-8": lambda: FileNotFoundError(os.fsdecode(b"caf\xe9.pdf")),
    "NUL": lambda: ValueError("a\0b"),
    "in the cause alone": caused,
    "in a group": lambda: ExceptionGroup("several", [ValueError(HALF), Mute()]),
    "final": lambda: NonRetriable(f"refused: {HALF}"),
    "str() that raises": Mute,
    "str() that leaves": Leaving,
    "ten million characters": lambda: ValueError("x" * 10_000_000),
    "a time that is not one": Timeless,
    "sys.exit": lambda: SystemExit(3),
    "a generator's end": lambda: GeneratorExit(),
    "a cancelled coroutine": lambda: asyncio.CancelledError(),
}
RESULTS: dict[str, Callable[[], object]] = {
    "half an emoji in the result": lambda: {"text": HALF},
    "NUL in the result": lambda: {"text": "a\0b"},
    "NUL in a key": lambda: {"\0": 1},
    "an object": object,
    "a number of 200,000 digits": lambda: 10**200_000,
    "five MiB": lambda: "x" * (5 << 20),
    "a very deep list": lambda: json.loads("[" * 500 + "]" * 500),
}
done: list[int] = []


def note(item: Item) -> str:
    done.append(item.event.data["n"])
    return "done"


def throwing(make: Callable[[], BaseException]) -> Callable[[Item], Any]:
    def throw(item: Item) -> None:
        done.append(item.event.data["n"])
        raise make()

    return throw


def giving(make: Callable[[], object]) -> Callable[[Item], Any]:
    def give(item: Item) -> object:
        done.append(item.event.data["n"])
        return make()

    return give


@pytest.fixture(autouse=True)
def no_deeds() -> Iterator[None]:
    done.clear()
    deeds["note"] = note
    yield
    deeds.clear()


def among_neighbours(yard: Yard, name: str) -> tuple[Invocation, Invocation, Invocation]:
    """Run an event with the bad deed in a batch between two good ones; return the three.

    No second attempt has been made yet.
    """
    first, bad, last = (
        yard.send(f"{name}/go", {"n": n, "deed": deed})
        for n, deed in enumerate(["note", "bad", "note"])
    )
    yard.work()
    return first.invocation, bad.invocation, last.invocation


def error_of(invocation: Invocation) -> dict[str, Any]:
    assert invocation.error is not None
    return dict(invocation.error)


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("function", ["giver", "together_giver"])
def test_an_error_fails_its_own_invocation_alone_whatever_its_text(
    yard: Yard, error: str, function: str
) -> None:
    if function == "giver":
        deeds["bad"] = throwing(ERRORS[error])
    else:
        deeds["bad"] = giving(ERRORS[error])
    first, bad, last = among_neighbours(yard, function)
    assert (first.status, last.status) == ("succeeded", "succeeded")
    assert bad.status == ("failed" if error == "final" else "queued")
    assert error_of(bad)["step"] == "give"
    assert done == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("half an emoji", "upstream said: \ufffd"),
        ("a file name that is not UTF-8", "caf\ufffd.pdf"),
        ("str() that raises", "(no message: str() of the error raises RuntimeError)"),
        ("sys.exit", "3"),
    ],
)
def test_an_error_is_stored_as_far_as_possible(yard: Yard, error: str, says: str) -> None:
    deeds["bad"] = throwing(ERRORS[error])
    _, bad, _ = among_neighbours(yard, "giver")
    assert error_of(bad)["message"] == says


def test_a_very_long_error_is_cut(yard: Yard) -> None:
    deeds["bad"] = throwing(ERRORS["ten million characters"])
    _, bad, _ = among_neighbours(yard, "giver")
    assert len(json.dumps(error_of(bad))) < 60_000


@pytest.mark.parametrize("result", list(RESULTS))
def test_an_unstorable_result_is_a_final_failure_of_its_own_invocation(
    yard: Yard, result: str
) -> None:
    deeds["bad"] = giving(RESULTS[result])
    first, bad, last = among_neighbours(yard, "giver")
    assert (first.status, last.status) == ("succeeded", "succeeded")
    assert bad.status == "failed"
    assert error_of(bad)["type"] == "NonRetriable"
    yard.advance("1d")
    assert done == [0, 1, 2]


@pytest.mark.parametrize("text", ["\\u0000", "say \\\\u0000 twice", "\\\\\\u0000"])
def test_a_result_that_only_names_the_character_nul_is_stored(yard: Yard, text: str) -> None:
    deeds["bad"] = giving(lambda: {"text": text})
    _, bad, _ = among_neighbours(yard, "giver")
    assert bad.output == {"text": text}


def test_an_error_that_only_names_the_character_nul_is_stored_unchanged(yard: Yard) -> None:
    deeds["bad"] = throwing(lambda: ValueError("remove \\u0000"))
    _, bad, _ = among_neighbours(yard, "giver")
    assert error_of(bad)["message"] == "remove \\u0000"


def test_a_condition_that_raises_fails_its_own_invocation_alone(yard: Yard) -> None:
    deeds["bad"] = throwing(lambda: KeyError("country"))
    first, bad, last = among_neighbours(yard, "chosen_giver")
    assert (first.output, bad.status, last.output) == ("given", "queued", "given")
    assert error_of(bad)["type"] == "KeyError"


@pytest.mark.parametrize(
    "value",
    [HALF, "a\0b", object(), 10**200_000],
    ids=["half an emoji", "NUL", "an object", "a long number"],
)
def test_an_unstorable_value_to_wait_for_fails_its_own_invocation_alone(
    yard: Yard, value: object
) -> None:
    deeds["bad"] = giving(lambda: value)
    first, bad, last = among_neighbours(yard, "waiting_giver")
    assert (first.status, bad.status, last.status) == ("waiting", "failed", "waiting")
    assert error_of(bad)["message"].startswith("what the step waits for")
    yard.send("given/now", {"key": "done"})
    yard.work()
    assert (first.status, last.status) == ("succeeded", "succeeded")


@pytest.mark.parametrize(
    "event",
    [Event(f"told/{HALF}"), Event("told/one", v=HALF), Event("told/one", {"text": HALF})],
    ids=["name", "v", "data"],
)
def test_an_unstorable_event_fails_the_sending_step_of_its_own_invocation_alone(
    yard: Yard, event: Event
) -> None:
    deeds["bad"] = giving(lambda: event)
    deeds["note"] = giving(lambda: Event("told/well"))
    first, bad, last = among_neighbours(yard, "sending_giver")
    assert (first.status, bad.status, last.status) == ("succeeded", "queued", "succeeded")
    assert len(yard.sent("told/well")) == 2


def test_a_written_text_is_stored_as_far_as_possible(yard: Yard) -> None:
    def speak(item: Item) -> str:
        item.write(f"half {HALF}\0 done")
        return "done"

    deeds["bad"] = speak
    _, bad, _ = among_neighbours(yard, "giver")
    assert (bad.status, list(bad.written.values())) == ("succeeded", ["half \ufffd\ufffd done"])


def test_the_text_of_progress_is_stored_as_far_as_possible(yard: Yard) -> None:
    def speak(item: Item) -> str:
        item.progress(100, f"half {HALF} done")
        return "done"

    deeds["bad"] = speak
    _, bad, _ = among_neighbours(yard, "giver")
    assert (bad.status, bad.progress) == ("succeeded", [(100.0, "half \ufffd done")])


def test_a_step_with_an_unstorable_name_is_rejected_before_it_runs(yard: Yard) -> None:
    yard.send("badly_named/go", {"n": 1})
    yard.work()
    assert done == []


@pytest.mark.parametrize("when", ["soon", None, float("nan")])
def test_retry_after_rejects_what_is_not_a_time(when: Any) -> None:
    with pytest.raises(Exception, match="give seconds from now as a number"):
        RetryAfter("later", when)
