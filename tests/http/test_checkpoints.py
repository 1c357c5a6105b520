"""Steps are kept while a call goes on, by the SDK for JavaScript as it comes from npm."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

import httpx
import pytest

from runyard import clock, send
from runyard.apps.run_ids import run_id
from runyard.apps.signatures import SigningKey
from runyard.engine import batch_claims, batch_leases, tallies
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.testing import Invocation
from tests import remote_work
from tests.conftest import wait_until
from tests.ports import free_port
from tests.sdk_apps import SdkApp
from tests.tables import rows
from tests.web_process import web_in_development

SCRIPT = "checkpointing"
# The SDK that has checkpoints on by default.
VERSIONS = ["4.24.0"]


def started(name: str, **data: Any) -> Invocation:
    """Send an event, and return its invocation."""
    [id] = send(f"point/{name}", data)
    [row] = rows("SELECT id FROM runyard.invocations WHERE event_id = %s", id)
    return Invocation(row["id"])


def ran(name: str, **data: Any) -> Invocation:
    made = started(name, **data)
    remote_work.work()
    return made


@contextmanager
def running() -> Iterator[None]:
    """Execute what is due in a thread, which has to end."""
    thread = threading.Thread(target=remote_work.work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        assert not thread.is_alive()


def traffic(app: SdkApp) -> list[Any]:
    """The calls, and the status of each checkpoint, in their order."""
    return ["call" if "call" in each else each["checkpoint"] for each in app.noted("traffic")]


def kept() -> list[str]:
    return [row["step"] for row in rows("SELECT step FROM runyard.steps ORDER BY number")]


class Dispatch:
    """A dispatch of an invocation: of a run that has begun, and calls nobody."""

    def __init__(self, url: str, name: str = "three", **data: Any) -> None:
        self._url = url
        self.invocation = started(name, **data)
        [self.batch] = [
            claim.batch_id
            for function in remote_work.functions()
            for claim in batch_claims.claim(function) or ()
        ]
        _, [begun], _ = batch_leases.begin(self.batch, "run-1")
        self.run = run_id(begun["id"], begun["created_at"])
        self.number = begun["dispatch"]

    def body(self, *ops: Any, **changes: Any) -> dict[str, Any]:
        return {
            "run_id": self.run,
            "qi_id": f"{self.batch}.{self.number}",
            "generation_id": self.number,
            "steps": list(ops),
            **changes,
        }

    def post(self, *ops: Any, run: str | None = None, **changes: Any) -> httpx.Response:
        """Send a checkpoint."""
        url = f"{self._url}/v1/checkpoint/{run or self.run}/async"
        return httpx.post(url, json=self.body(*ops, **changes), timeout=30)

    def release(self) -> None:
        """End the lease, as when the worker is lost."""
        batch_leases.release(self.batch, "running", "queued", attempts=4, force=True)


def op(name: str, data: Any = 1, kind: str = "StepRun") -> dict[str, Any]:
    return {
        "op": kind,
        "id": sha1(name.encode()).hexdigest(),
        "data": data,
        "userland": {"id": name},
        "timing": {"a": 1_764_111_111_000_000_000, "b": 1_500_000_000},
    }


@pytest.fixture
def dispatch(app: SdkApp, developing: str) -> Dispatch:
    """A dispatch of the function `three`."""
    return Dispatch(developing, n=1)


def test_three_steps_take_one_call_and_three_checkpoints(app: SdkApp) -> None:
    made = ran("three", n=1)
    assert made.output == {"one": 2, "two": 4}
    assert app.ledger() == ["one", "two", "three"]
    assert traffic(app) == ["call", 200, 200, 200]
    assert {name: step.output for name, step in made.steps.items()} == {
        "one": {"data": 2},
        "two": {"data": 4},
        "three": {"data": {"one": 2, "two": 4}},
    }
    assert kept() == ["one", "two", "three"]


def test_a_function_without_checkpoints_is_called_after_each_step(app: SdkApp) -> None:
    made = ran("plain", n=1)
    assert made.output == {"one": 2, "two": 4}
    assert app.ledger() == ["one", "two", "three"]
    assert traffic(app) == ["call"] * 4


def test_steps_that_the_application_gathers_are_kept_together(app: SdkApp) -> None:
    made = ran("buffered")
    assert made.output == "done"
    assert app.ledger() == list(range(5))
    assert traffic(app) == ["call", 200]
    assert kept() == [f"part {n}" for n in range(5)]


def test_steps_are_there_while_the_call_goes_on(app: SdkApp) -> None:
    made = started("held")
    with running():
        wait_until(lambda: app.ledger() == ["first", "second"])
        assert made.status == "running"
        assert kept() == ["first"]
        app.clear()
    assert made.output == 3
    assert kept() == ["first", "second", "third"]


def test_results_come_with_the_answer_when_checkpoints_do_not_arrive(app: SdkApp) -> None:
    app.noted("away")
    made = ran("three", n=1)
    assert made.output == {"one": 2, "two": 4}
    assert app.ledger() == ["one", "two", "three"]
    assert traffic(app) == [*["call", *[0] * 5] * 3, "call"]
    numbers = [int(each["call"]) for each in app.noted("traffic") if "call" in each]
    assert numbers == [1, 2, 3, 4]


def test_gathered_steps_come_with_the_answer_when_checkpoints_do_not_arrive(app: SdkApp) -> None:
    app.noted("away")
    made = ran("buffered")
    assert made.output == "done"
    assert app.ledger() == list(range(5))
    assert traffic(app) == ["call", *[0] * 5, "call"]


def test_a_killed_application_goes_on_behind_the_last_kept_step(app: SdkApp) -> None:
    clock.freeze(clock.now())
    made = started("held")
    with running():
        wait_until(lambda: app.ledger() == ["first", "second"])
        app.stop()
    assert made.status == "queued"
    app.run("checkpointing")
    thread = threading.Thread(target=remote_work.advance, kwargs={"minutes": 5})
    thread.start()
    wait_until(lambda: app.ledger() == ["second"])
    app.clear()
    thread.join(30)
    assert made.output == 3
    assert app.ledger() == ["third"]


def test_what_arrives_while_the_lease_of_a_lost_worker_stands_is_kept(
    app: SdkApp, dispatch: Dispatch
) -> None:
    assert dispatch.post(op("one", 5)).status_code == 200
    dispatch.release()
    assert dispatch.post(op("two", 7)).status_code == 409
    assert kept() == ["one"]
    clock.freeze(clock.now())
    remote_work.advance(minutes=5)
    assert dispatch.invocation.output == {"one": 5, "two": 10}
    assert app.ledger() == ["two", "three"]


def test_an_application_that_another_run_has_overtaken_stops(app: SdkApp) -> None:
    clock.freeze(clock.now())
    made = started("held")
    overtaken = threading.Thread(target=work_until_overtaken)
    overtaken.start()
    wait_until(lambda: app.ledger() == ["first", "second"])
    [batch] = rows("SELECT id FROM runyard.batches")
    batch_leases.release(batch["id"], "running", "queued", attempts=4, force=True)
    second = threading.Thread(target=remote_work.advance, kwargs={"minutes": 5})
    second.start()
    wait_until(lambda: app.ledger() == ["first", "second", "second"])
    app.clear()
    second.join(30)
    overtaken.join(30)
    assert made.output == 3
    assert app.ledger() == ["third"]
    wait_until(lambda: 409 in traffic(app))


def work_until_overtaken() -> None:
    with pytest.raises(LeaseLost):
        remote_work.work()


def test_a_cancelled_run_keeps_nothing_more_and_is_no_failure(app: SdkApp) -> None:
    made = started("held")
    with running():
        wait_until(lambda: app.ledger() == ["first", "second"])
        assert cancel(Selection(invocations=(made.id,))) == 1
        app.clear()
    assert made.status == "cancelled"
    wait_until(lambda: 409 in traffic(app))
    assert kept() == ["first"]
    assert app.ledger() == []


def test_an_attempt_that_has_kept_a_step_counts_as_the_first_one(app: SdkApp) -> None:
    clock.freeze(clock.now())
    made = ran("flaky")
    assert made.status == "queued"
    assert app.ledger() == [0, "good"]
    remote_work.advance(minutes=5)
    assert app.ledger()[2:4] == [1, "better"]
    assert made.status == "succeeded"


def test_a_step_that_fails_after_kept_ones_ends_the_run(app: SdkApp) -> None:
    made = ran("failing")
    assert made.status == "failed"
    assert app.ledger() == ["good", "bad"]
    assert kept() == ["good", "bad"]


def test_a_call_that_takes_too_long_for_the_application_is_followed_by_another(
    app: SdkApp,
) -> None:
    made = ran("long")
    assert made.output == "done"
    assert app.ledger() == list(range(6))
    assert kept() == [f"part {n}" for n in range(6)]


def test_after_parallel_steps_and_sleeps_checkpoints_go_on(app: SdkApp) -> None:
    clock.freeze(clock.now())
    made = ran("mixed")
    assert made.status == "sleeping"
    remote_work.advance(hours=2)
    assert made.output == "AB"
    assert sorted(app.ledger()) == sorted(["before", "a", "b", "between", "after"])
    assert traffic(app) == ["call", 200, "call", "call", "call", 200, "call", 200]


def test_a_result_that_cannot_be_stored_fails_its_run_in_words(app: SdkApp) -> None:
    made = ran("unstorable")
    assert made.status == "failed"
    assert app.ledger() == ["good", "text"]
    assert made.error is not None
    assert "NUL" in made.error["message"]
    assert traffic(app)[:7] == ["call", 200, *[400] * 5]


def test_a_step_is_kept_with_its_name_and_how_long_it_took(dispatch: Dispatch) -> None:
    assert dispatch.post(op("one", {"a": [None]})).json() == {"ok": True}
    [row] = rows(
        "SELECT step, output, attempt, run_id, finished_at - started_at AS took FROM runyard.steps"
    )
    assert row["took"].total_seconds() == pytest.approx(1.5)
    del row["took"]
    assert row == {
        "step": "one",
        "output": {"data": {"a": [None]}},
        "attempt": 1,
        "run_id": "run-1",
    }


def test_the_same_checkpoint_again_changes_nothing(dispatch: Dispatch) -> None:
    dispatch.post(op("one"), op("two"))
    before = rows("SELECT * FROM runyard.steps ORDER BY number")
    assert dispatch.post(op("one"), op("two")).status_code == 200
    assert rows("SELECT * FROM runyard.steps ORDER BY number") == before


def test_each_step_that_is_kept_counts_once_with_the_time_that_it_took(
    dispatch: Dispatch,
) -> None:
    [row] = rows("SELECT function FROM runyard.invocations")
    before = tallies.totals()
    for _ in range(2):
        dispatch.post(op("one"), op("two"))
    after = tallies.totals()
    succeeded = row["function"], "succeeded"
    function = (row["function"],)
    assert after.attempts[succeeded] - before.attempts.get(succeeded, 0) == 2
    stepping = after.stepping[function].seconds
    if function in before.stepping:
        stepping -= before.stepping[function].seconds
    assert stepping == pytest.approx(3.0)


def test_a_call_whose_step_has_another_result_already_has_to_stop(dispatch: Dispatch) -> None:
    dispatch.post(op("one", 1))
    assert dispatch.post(op("one", 2), op("two")).status_code == 409
    assert rows("SELECT step, output FROM runyard.steps") == [
        {"step": "one", "output": {"data": 1}}
    ]


def test_a_failed_try_of_a_step_is_replaced(dispatch: Dispatch) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.steps (invocation_id, step, attempt, error, started_at,"
            " finished_at) VALUES (%s, 'one', 1, '{}', now(), now())",
            [dispatch.invocation.id],
        )
    assert dispatch.post(op("one")).status_code == 200
    assert rows("SELECT output, error, tries FROM runyard.steps") == [
        {"output": {"data": 1}, "error": None, "tries": 2}
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"generation_id": 2},
        {"generation_id": 0},
        {"qi_id": "another.1"},
        {"qi_id": "nothing"},
        {"qi_id": None},
        {"qi_id": "x.99999999999999999999"},
    ],
)
def test_a_checkpoint_that_names_another_dispatch_is_stale(
    dispatch: Dispatch, changes: dict[str, Any]
) -> None:
    answer = dispatch.post(op("one"), **changes)
    assert answer.status_code == 409
    assert answer.json()["code"] == "stale"
    assert kept() == []


def test_a_checkpoint_is_stale_once_another_call_has_begun(dispatch: Dispatch) -> None:
    with database.connection() as connection:
        connection.execute("UPDATE runyard.invocations SET dispatch = dispatch + 1")
    assert dispatch.post(op("one")).status_code == 409


def test_a_checkpoint_with_the_run_of_another_function_is_stale(
    dispatch: Dispatch, developing: str
) -> None:
    other = Dispatch(developing, "plain", n=1)
    assert dispatch.post(op("one"), run=other.run, run_id=other.run).status_code == 409
    assert kept() == []


def test_functions_of_the_project_have_no_checkpoints(developing: str) -> None:
    [id] = send("also/go")
    [row] = rows("SELECT * FROM runyard.invocations WHERE event_id = %s", id)
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.invocations SET status = 'running', batch_id = 'b', run_id = 'r',"
            " dispatch = 1"
        )
    run = run_id(row["id"], row["created_at"])
    sent = {"run_id": run, "qi_id": "b.1", "steps": [op("one")]}
    answer = httpx.post(f"{developing}/v1/checkpoint/{run}/async", json=sent)
    assert answer.status_code == 409
    assert kept() == []


@pytest.mark.parametrize(
    ("steps", "status", "words"),
    [
        ([op("one"), op("nap", kind="Sleep")], 400, "Sleep"),
        ([op("one"), op("x", kind="RunComplete")], 400, "RunComplete"),
        ([op("one"), {"op": "StepRun", "id": "one"}], 400, "40 hexadecimal digits"),
        ([op("one"), 5], 400, "without a kind"),
        (None, 400, "a list of steps"),
        ([op("one")] * 1_001, 413, "1,001"),
        ([op("one"), op("large", "x" * 5_000_000)], 413, "4 MiB"),
        ([op("one"), op("nul", "a\0b")], 400, "NUL"),
    ],
)
def test_a_checkpoint_is_kept_whole_or_not_at_all(
    dispatch: Dispatch, steps: Any, status: int, words: str
) -> None:
    answer = dispatch.post(steps=steps)
    assert answer.status_code == status
    assert kept() == []
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"steps": [{"op": "StepRun", "data": "\\ud83d"}]}']
)
def test_what_is_no_checkpoint_is_refused(dispatch: Dispatch, developing: str, body: bytes) -> None:
    url = f"{developing}/v1/checkpoint/{dispatch.run}/async"
    assert httpx.post(url, content=body).status_code == 400


def test_a_checkpoint_of_another_run_than_that_of_its_path_is_refused(dispatch: Dispatch) -> None:
    assert dispatch.post(op("one"), run_id="another").status_code == 400


def test_a_body_that_is_too_large_is_refused(dispatch: Dispatch) -> None:
    assert dispatch.post(op("one", "x" * 9_000_000)).status_code == 413


def test_a_run_has_at_most_a_thousand_steps(dispatch: Dispatch) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.steps (invocation_id, step, attempt, output, started_at,"
            " finished_at) SELECT %s, n::text, 1, '1', now(), now()"
            " FROM generate_series(1, 1000) AS n",
            [dispatch.invocation.id],
        )
    answer = dispatch.post(op("one"))
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


def test_steps_that_are_about_to_run_and_what_is_not_used_are_no_results(
    dispatch: Dispatch,
) -> None:
    ops = [op("one", kind=kind) for kind in ("StepPlanned", "DeferAdd", "DeferAbort")]
    assert dispatch.post(*ops, op("two")).status_code == 200
    assert kept() == ["two"]


def test_a_run_that_is_being_changed_is_asked_for_again(dispatch: Dispatch) -> None:
    with database.transaction() as connection:
        connection.execute("SELECT FROM runyard.invocations FOR UPDATE")
        answer = dispatch.post(op("one"))
    assert answer.status_code == 503
    assert answer.json()["code"] == "locked"
    assert dispatch.post(op("one")).status_code == 200


def test_checkpoints_of_many_runs_at_once_are_each_kept(
    dispatch: Dispatch, developing: str
) -> None:
    others = [Dispatch(developing, n=n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda each: each.post(op("one", each.run)).status_code, others)
    assert list(answers) == [200] * 8
    assert rows("SELECT invocation_id, output->>'data' AS run FROM runyard.steps ORDER BY 1") == [
        {"invocation_id": each.invocation.id, "run": each.run} for each in others
    ]


def test_in_production_a_checkpoint_needs_the_signing_key(web: Any) -> None:
    answer = httpx.post(f"{web.url}/v1/checkpoint/01JAAAAAAAAAAAAAAAAAAAAAAA/async", json={})
    assert answer.status_code == 401


def test_with_a_signing_key_only_applications_that_have_it_send_checkpoints(
    dispatch: Dispatch, web_database_url: str
) -> None:
    port = free_port()
    key, other = (SigningKey.parse(f"signkey-test-{text * 32}", "key") for text in ("ab", "cd"))
    server = web_in_development(
        web_database_url, port, RUNYARD_SIGNING_KEY="signkey-test-" + "ab" * 32
    )
    url = f"http://127.0.0.1:{port}/v1/checkpoint/{dispatch.run}/async"
    try:
        statuses = [
            httpx.post(url, json=dispatch.body(op("one")), headers=headers).status_code
            for headers in (
                {},
                {"authorization": "Bearer undefined"},
                {"authorization": f"Bearer {other.bearer}"},
                {"authorization": f"Bearer {key.bearer}"},
            )
        ]
    finally:
        server.terminate()
        server.wait(15)
    assert statuses == [401, 401, 401, 200]
