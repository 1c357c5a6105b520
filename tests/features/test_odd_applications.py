"""Applications that never come to an end, die, or are registered anew in the middle of a run."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha1
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runyard import clock, send
from runyard.apps import journey
from runyard.apps.driver import drive, target_of
from runyard.engine import batch_claims, batch_leases
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.engine.items import BatchState, items_from_rows
from runyard.engine.lease import Lease
from runyard.store import database
from runyard.testing import Invocation
from tests import remote_work
from tests.conftest import wait_until
from tests.remote_app import RemoteApp, served_app
from tests.tables import empty_tables, rows

Answers = Callable[[str, Mapping[str, Any]], tuple[int, Any]]
CALLED = "step"  # the id of the step for which the function itself is called


class OddApp:
    """An application with one function, whose answers the test gives.

    Attributes
    ----------
    app
        The application.
    calls
        How often each step was called, by its id.
    """

    def __init__(self, app: RemoteApp, patch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.calls: Counter[str] = Counter()
        self._patch = patch

    def answers(self, answer: Answers) -> None:
        """Answer calls of a step with a status and a body."""

        def counted(path: str, sent: Mapping[str, Any]) -> tuple[int, Any]:
            [step] = parse_qs(urlsplit(path).query)["stepId"]
            self.calls[step] += 1
            return answer(step, sent)

        self._patch.setattr(self.app, "answer", counted)

    def begin(self) -> Invocation:
        """Send the event of its function; return the invocation."""
        [event] = send("odd/any")
        [row] = rows("SELECT id FROM runyard.invocations WHERE event_id = %s", event)
        return Invocation(row["id"])

    def run(self) -> Invocation:
        """The same, and execute what is due."""
        made = self.begin()
        remote_work.work()
        return made


@pytest.fixture
def odd(runyard_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OddApp]:
    """The application, registered, with the time frozen."""
    empty_tables()
    with served_app("odd") as app:
        app.register("any")
        clock.freeze(clock.now())
        yield OddApp(app, monkeypatch)
        clock.freeze(None)


def id_of(name: str) -> str:
    return sha1(name.encode()).hexdigest()


def op(step: str, kind: str, **more: Any) -> dict[str, Any]:
    """A step, as SDKs write it."""
    return {"id": id_of(step), "op": kind, "name": step, "userland": {"id": step}, **more}


def planned(count: int) -> Sequence[Mapping[str, Any]]:
    return [op(str(n), "StepPlanned") for n in range(count)]


def error_of(made: Invocation) -> str:
    assert made.error is not None
    return str(made.error["message"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "it has nothing to do"),
        ([op("a", "None")], "it has nothing to do"),
        ([op("a", "StepRun", data=1)], "it has nothing to do"),
        ([op("a", "DiscoveryRequest")], "asks to be called again and again"),
    ],
)
def test_a_function_that_gets_no_further_fails(odd: OddApp, answer: Any, words: str) -> None:
    odd.answers(lambda _, __: (206, answer))
    made = odd.run()
    assert made.status == "failed"
    assert words in error_of(made)
    assert odd.calls[CALLED] <= 10


def test_a_function_with_new_steps_for_ever_fails(
    odd: OddApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journey, "MAX_STEPS", 20)
    odd.answers(lambda _, sent: (206, [op(str(len(sent["steps"])), "StepRun", data=1)]))
    made = odd.run()
    assert made.status == "failed"
    assert "more than 20 steps" in error_of(made)


def test_a_thousand_parallel_steps_run_once_each(odd: OddApp) -> None:
    def answer(step: str, sent: Mapping[str, Any]) -> tuple[int, Any]:
        if step != CALLED:
            return 206, [{"id": step, "op": "StepRun", "data": step}]
        return (200, len(sent["steps"])) if sent["steps"] else (206, planned(1_000))

    odd.answers(answer)
    assert odd.run().output == 1_000
    assert odd.calls.pop(CALLED) == 2
    assert set(odd.calls.values()) == {1}


def test_more_parallel_steps_than_a_run_may_have_are_refused(odd: OddApp) -> None:
    odd.answers(lambda _, __: (206, planned(1_001)))
    made = odd.run()
    assert made.status == "queued"
    assert "1,001 steps" in error_of(made)


def test_an_application_that_dies_between_plan_and_step_is_called_for_that_step_again(
    odd: OddApp,
) -> None:
    def answer(step: str, sent: Mapping[str, Any]) -> tuple[int, Any]:
        if step == id_of("1") and odd.calls[step] == 1:
            raise ConnectionResetError("the application dies")
        if step != CALLED:
            return 206, [{"id": step, "op": "StepRun", "data": step}]
        return (200, "done") if len(sent["steps"]) == 3 else (206, planned(3))

    odd.answers(answer)
    made = odd.run()
    assert made.status == "queued"
    remote_work.advance(minutes=5)
    assert made.output == "done"
    assert [odd.calls[id_of(str(n))] for n in range(3)] == [1, 2, 1]


def test_a_run_that_is_cancelled_between_planned_steps_does_nothing_more(odd: OddApp) -> None:
    held = threading.Event()

    def answer(step: str, _: Mapping[str, Any]) -> tuple[int, Any]:
        if step == id_of("2"):
            held.wait(20)
        if step != CALLED:
            return 206, [{"id": step, "op": "StepRun", "data": step}]
        return 206, planned(3)

    odd.answers(answer)
    made = odd.begin()
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: odd.calls[id_of("2")] and len(made.steps) == 2)
    cancel(Selection(invocations=(made.id,)))
    running.join(20)
    assert not running.is_alive()
    assert made.status == "cancelled"
    held.set()
    remote_work.work()
    assert (made.status, odd.calls[CALLED], len(made.steps)) == ("cancelled", 1, 2)


def test_a_run_that_is_cancelled_while_its_end_is_written_harms_no_other(odd: OddApp) -> None:
    odd.app.open.clear()
    odd.answers(lambda _, __: (200, "done"))
    ended, other = odd.begin(), odd.begin()
    [claim] = batch_claims.claim(remote_work.functions()[0]) or []
    _, found, steps = batch_leases.begin(claim.batch_id, "run-1")
    items, _ = items_from_rows(found, steps, "run-1")
    lease = Lease(claim.batch_id, "run-1")
    state = BatchState(claim.batch_id, "run-1", "odd_any", items, lease)
    running = threading.Thread(target=drive, args=(state, items, target_of("odd_any")))
    running.start()
    wait_until(lambda: len(odd.app.calls) == 2)
    with database.transaction() as connection:
        connection.execute("SELECT FROM runyard.batches FOR UPDATE")
        odd.app.open.set()
        wait_until(lambda: rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        lease.cancel([ended.id])
    running.join(20)
    assert not running.is_alive()
    assert {id: outcome.status for id, outcome in state.settled.items()} == {
        ended.id: "succeeded",
        other.id: "succeeded",
    }


def test_a_run_that_sleeps_ends_after_its_function_is_registered_no_longer(odd: OddApp) -> None:
    def answer(_: str, sent: Mapping[str, Any]) -> tuple[int, Any]:
        if sent["steps"]:
            return 200, "awake"
        return 206, [op("nap", "Sleep", name="1h")]

    odd.answers(answer)
    made = odd.run()
    assert made.status == "sleeping"
    odd.app.register("other")
    remote_work.advance(hours=2)
    assert made.output == "awake"


def test_a_run_of_a_function_that_is_served_no_longer_fails(odd: OddApp) -> None:
    odd.answers(lambda _, __: (206, [op("nap", "Sleep", name="1h")]))
    made = odd.run()
    odd.app.register("other")
    odd.answers(lambda _, __: (404, {"message": "not found"}))
    remote_work.advance(hours=2)
    assert made.status == "failed"
