"""Steps that sleep, wait, invoke and send, also in parallel; and when a step is retried."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from runyard import Event
from runyard.engine import batch_leases
from runyard.store import database
from runyard.testing import Yard
from tests.tables import rows

# Before the names of functions: those in the light form, and the same ones in the long form.
both_forms = pytest.mark.parametrize("form", ["", "long_"], ids=["light", "long"])


@both_forms
def test_a_sleep_occupies_no_run_and_resumes_in_a_linked_one(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}sleeper/go")
    yard.work()
    invocation = sent.invocation
    assert (invocation.status, invocation.due, list(invocation.steps)) == (
        "sleeping",
        yard.now + timedelta(days=3),
        ["work"],
    )
    assert rows("SELECT id FROM runyard.batches WHERE status IN ('claimed', 'running')") == []
    assert yard.advance(timedelta(days=3) - timedelta(seconds=1)) == 0
    assert yard.advance(1) == 1
    assert (
        invocation.status,
        invocation.output,
        invocation.steps["nap"].output,
        invocation.steps["work"].tries,
    ) == ("succeeded", "done", None, 1)
    assert len(yard.runs) == 2
    assert yard.metadata(yard.runs[1], "receive")["continues run 1"] == yard.runs[0]


@pytest.mark.parametrize(
    ("nap", "length"),
    [
        (1, timedelta(seconds=1)),
        ("1h30m", timedelta(minutes=90)),
        ("366d", timedelta(days=366)),
        ("500ms", timedelta(seconds=0.5)),
    ],
)
def test_a_sleep_lasts_as_long_as_it_says(yard: Yard, nap: Any, length: timedelta) -> None:
    began = yard.now
    invocation = yard.run("sleeper", {"nap": nap})
    yard.advance("366d")
    assert invocation.status == "succeeded"
    assert invocation.due - began == length


@pytest.mark.parametrize(
    ("nap", "says"),
    [("367d", "out of bounds"), ("soon", "is not a duration"), (-1, "out of bounds")],
)
def test_a_wrong_duration_fails_the_invocation(yard: Yard, nap: Any, says: str) -> None:
    invocation = yard.run("sleeper", {"nap": nap})
    assert invocation.status == "queued"
    assert invocation.error is not None
    assert says in invocation.error["message"]


def test_sleep_until_wakes_at_that_time_and_a_past_time_suspends_nothing(
    yard: Yard,
) -> None:
    later = yard.run("until", {"at": (yard.now + timedelta(hours=5)).isoformat()})
    passed = yard.run("until", {"at": (yard.now - timedelta(hours=5)).isoformat()})
    naive = yard.run("until", {"at": "2030-01-01T00:00:00"})
    assert (later.status, passed.status, naive.status) == ("sleeping", "succeeded", "queued")
    assert naive.error is not None
    assert "time zone" in naive.error["message"]
    yard.advance("5h")
    assert later.status == "succeeded"


@both_forms
def test_an_awaited_event_is_the_steps_result(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}waiter/go", {"order": 7})
    yard.work()
    assert sent.invocation.status == "waiting"
    yard.send("answer/given", {"order": 8, "says": "no"})
    yard.work()
    assert sent.invocation.status == "waiting"
    yard.send("answer/given", {"order": 7, "says": "yes"})
    yard.send("answer/given", {"order": 7, "says": "too late"})
    yard.work()
    assert sent.invocation.status == "succeeded"
    assert sent.invocation.steps["answer"].output == {"order": 7, "says": "yes"}


@both_forms
def test_a_wait_that_times_out_has_the_result_none(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}waiter/go", {"order": 7})
    yard.advance("7d")
    assert sent.invocation.steps["answer"].output is None
    assert sent.invocation.status == "succeeded"


def test_a_match_compares_types_too(yard: Yard) -> None:
    sent = yard.send("waiter/go", {"order": "7"})
    yard.work()
    yard.send("answer/given", {"order": 7})
    yard.work()
    assert sent.invocation.status == "waiting"


def test_missing_fields_never_match(yard: Yard) -> None:
    sent = yard.send_all([Event("waiter/go", {}), Event("waiter/go", {"order": None})])
    yard.work()
    yard.send_all([Event("answer/given", {}), Event("answer/given", {"order": None})])
    yard.work()
    assert [each.invocation.status for each in sent] == ["waiting", "waiting"]


def test_a_wait_can_compare_other_fields_and_filter(yard: Yard) -> None:
    sent = yard.send("chooser/go", {"from": "ada"})
    yard.work()
    yard.send("choice/made", {"to": "ada", "sure": False})
    yard.work()
    assert sent.invocation.status == "waiting"
    yard.send("choice/made", {"to": "ada", "sure": True, "what": "tea"})
    yard.work()
    assert sent.invocation.steps["choice"].output["what"] == "tea"


def test_an_event_between_the_beginning_of_the_run_and_the_wait_is_not_missed(yard: Yard) -> None:
    def answered(item: Any) -> str:
        yard.send("answer/given", {"order": 7, "says": "at once"})
        return "asked"

    yard.stub("work", answered)
    invocation = yard.run("waiter", {"order": 7})
    assert (invocation.status, invocation.steps["answer"].output["says"], len(yard.runs)) == (
        "succeeded",
        "at once",
        1,
    )


def test_an_event_before_the_functions_own_is_not_an_answer(yard: Yard) -> None:
    yard.send("answer/given", {"order": 7})
    assert yard.run("waiter", {"order": 7}).status == "waiting"


def test_an_event_after_the_functions_own_is_not_missed_before_the_run_begins(
    yard: Yard,
) -> None:
    sent = yard.send("waiter/go", {"order": 7})
    yard.send("answer/given", {"order": 7, "says": "early"})
    yard.work()
    assert sent.invocation.steps["answer"].output == {"order": 7, "says": "early"}


def test_an_event_of_the_same_transaction_is_an_answer(yard: Yard) -> None:
    sent, _ = yard.send_all([Event("waiter/go", {"order": 7}), Event("answer/given", {"order": 7})])
    yard.work()
    assert sent.invocation.status == "succeeded"


def test_a_replay_waits_for_an_answer_of_its_own(yard: Yard) -> None:
    sent = yard.send("waiter/go", {"order": 7})
    yard.send("answer/given", {"order": 7})
    yard.work()
    with database.connection() as connection:
        connection.execute("SELECT runyard.replay(%s)", (sent.invocation.id,))
    yard.work()
    assert [each.status for each in sent.invocations] == ["succeeded", "waiting"]


def test_a_functions_own_event_does_not_end_its_wait_but_the_next_one_does(yard: Yard) -> None:
    first, second = yard.send_all([Event("again/go", {"n": 1}), Event("again/go", {"n": 2})])
    yard.work()
    assert (first.invocation.steps["next"].output, second.invocation.status) == (
        {"n": 2},
        "waiting",
    )


def test_an_event_that_is_committed_late_is_not_missed(yard: Yard, runyard_database: str) -> None:
    with psycopg.connect(runyard_database) as application:
        # In a transaction that began before the wait.
        application.execute("SELECT runyard.send('answer/given', '{\"order\": 7}')")
        sent = yard.send("waiter/go", {"order": 7})
        yard.work()
        assert sent.invocation.status == "waiting"
        application.commit()
    yard.work()
    assert sent.invocation.status == "succeeded"


def test_an_event_of_a_transaction_that_sees_no_wait_is_not_missed(
    yard: Yard, runyard_database: str
) -> None:
    with psycopg.connect(runyard_database) as application:
        application.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        # This fixes the transaction's snapshot, before there is a wait.
        application.execute("SELECT count(*) FROM runyard.waits")
        sent = yard.send("waiter/go", {"order": 7})
        yard.work()
        assert sent.invocation.status == "waiting"
        application.execute("SELECT runyard.send('answer/given', '{\"order\": 7}')")
        application.commit()
    yard.work()
    assert sent.invocation.status == "succeeded"


@both_forms
def test_an_event_while_the_worker_is_lost_is_not_missed(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}waiter/go", {"order": 7})
    [batch] = yard.claim(f"{form}waiter")
    begun = batch_leases.begin(batch, "lost-run")
    assert begun is not None
    yard.send("answer/given", {"order": 7})
    batch_leases.release(batch, "running", "queued", attempts=3, crashed=True, force=True)
    yard.work()
    assert sent.invocation.steps["answer"].output == {"order": 7}


@both_forms
def test_invoke_returns_the_other_functions_output(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}caller/go", {"n": 4})
    yard.work()
    assert sent.invocation.status == "succeeded"
    assert sent.invocation.steps["call"].output == {"n": 8, "attempt": 1}


@both_forms
def test_the_failure_of_an_invoked_function_is_final(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}caller/go", {"n": 4, "fails": 9})
    yard.work()
    assert sent.invocation.status == "waiting"
    yard.advance("1m")
    assert sent.invocation.status == "failed"
    assert sent.invocation.error is not None
    assert sent.invocation.error["type"] == "InvokeFailed"
    assert "plain failed: RuntimeError: failure 3" in sent.invocation.error["message"]


def test_an_invoked_function_that_takes_too_long_is_a_failure(yard: Yard) -> None:
    sent = yard.send("impatient/go")
    yard.advance("1h")
    assert sent.invocation.status == "failed"


@both_forms
def test_a_retry_of_the_caller_invokes_once(yard: Yard, form: str) -> None:
    yard.stub("after", RuntimeError("after the call"), "done")
    sent = yard.send(f"{form}caller/go", {"n": 4})
    yard.advance("1m")
    assert sent.invocation.status == "succeeded"
    assert len(yard.sent("plain/go")) == 1


@both_forms
def test_a_step_sends_its_events_once_whatever_is_retried(yard: Yard, form: str) -> None:
    yard.stub("work", RuntimeError("after the send"), "done")
    sent = yard.send(f"{form}sender/go")
    yard.advance("1m")
    assert sent.invocation.status == "succeeded"
    [notice] = yard.sent("told/one")
    [started] = yard.sent("plain/go")
    assert sent.invocation.steps["tell"].output == [notice.id, started.id]
    assert rows("SELECT caused_by FROM runyard.events WHERE id = %s", notice.id) == [
        {"caused_by": sent.invocation.id}
    ]
    assert rows("SELECT status FROM runyard.invocations WHERE event_id = %s", started.id) == [
        {"status": "succeeded"}
    ]


@both_forms
def test_a_branch_that_sleeps_does_not_delay_the_other(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}parallel/go")
    yard.work()
    assert (sent.invocation.status, list(sent.invocation.steps)) == ("sleeping", ["right"])
    yard.advance(60)
    assert (sent.invocation.status, sent.invocation.output) == ("succeeded", [None, "r"])


@both_forms
def test_a_branch_that_fails_is_retried_while_the_other_sleeps(yard: Yard, form: str) -> None:
    sent = yard.send(f"{form}parallel/go", {"fails": 1})
    yard.advance(59)
    assert sent.invocation.steps["right"].tries == 2
    assert sent.invocation.status == "sleeping"
    yard.advance(1)
    assert (sent.invocation.status, sent.invocation.output) == ("succeeded", [None, "r"])


@pytest.mark.parametrize(
    ("function", "data", "status", "tries", "seconds"),
    [
        ("plain", {"fails": 2}, "succeeded", 3, 30),
        ("plain", {"fails": 3}, "failed", 3, 30),
        ("plain", {"fails": 1, "kind": "final"}, "failed", 1, 0),
        ("plain", {"after": 500}, "succeeded", 2, 500),
        ("long_plain", {"fails": 2}, "succeeded", 3, 30),
        ("long_plain", {"fails": 3}, "failed", 3, 30),
        ("long_plain", {"fails": 1, "kind": "final"}, "failed", 1, 0),
        ("long_plain", {"after": 500}, "succeeded", 2, 500),
        ("stepwise", {}, "failed", 2, 5),
        ("typed", {"fails": 9, "kind": "value"}, "failed", 1, 0),
        ("typed", {"fails": 9, "kind": "key"}, "failed", 2, 1),
        ("typed", {"fails": 9}, "failed", 3, 20),
    ],
)
def test_a_step_is_retried_as_its_rules_say(
    yard: Yard, function: str, data: dict[str, Any], status: str, tries: int, seconds: float
) -> None:
    began = yard.now
    invocation = yard.run(function, data)
    yard.advance("1d")
    [step] = invocation.steps.values()
    assert (invocation.status, step.tries) == (status, tries)
    assert rows(
        "SELECT finished_at - %s AS after FROM runyard.invocations WHERE id = %s",
        began,
        invocation.id,
    ) == [{"after": timedelta(seconds=seconds)}]


@both_forms
def test_attempts_count_for_each_step(yard: Yard, form: str) -> None:
    yard.stub("work", RuntimeError("1"), RuntimeError("2"), "fine")
    yard.stub("after", RuntimeError("1"), RuntimeError("2"), "fine")
    invocation = yard.run(f"{form}sleeper", {"nap": 1})
    yard.advance("1d")
    assert invocation.status == "succeeded"
    tries = {name: step.tries for name, step in invocation.steps.items()}
    assert tries == {"work": 3, "nap": 1, "after": 3}


def test_a_sleep_that_was_renamed_begins_again(yard: Yard) -> None:
    invocation = yard.run("sleeper", {"nap": 60})
    with database.connection() as connection:
        connection.execute("UPDATE runyard.waits SET step = 'nap-of-old'")
    yard.advance(60)
    assert invocation.status == "sleeping"
    yard.advance(60)
    assert invocation.status == "succeeded"


def test_a_step_added_before_a_sleep_runs_on_waking(yard: Yard) -> None:
    invocation = yard.run("sleeper", {"nap": 60})
    with database.connection() as connection:
        # As if the step had been added while the invocation slept.
        connection.execute("DELETE FROM runyard.steps WHERE step = 'work'")
    yard.advance(60)
    assert invocation.status == "succeeded"
    assert set(invocation.steps) == {"work", "nap", "after"}


@both_forms
def test_a_stub_replaces_a_step_of_any_kind(yard: Yard, form: str) -> None:
    yard.stub("nap", None)
    yard.stub("work", lambda item: item.event.data["n"] + 1)
    invocation = yard.run(f"{form}sleeper", {"n": 1})
    assert invocation.status == "succeeded"
    assert invocation.steps["work"].output == 2


def test_many_invocations_wait_each_for_its_own_event(yard: Yard) -> None:
    sent = yard.send_all([Event("waiter/go", {"order": n}) for n in range(50)])
    yard.work()
    assert len(yard.runs) == 1
    for order in range(0, 50, 2):
        yard.send("answer/given", {"order": order})
    yard.work()
    assert [each.invocation.status for each in sent] == ["succeeded", "waiting"] * 25
