"""Functions of applications run as their SDKs promise, judged by what the applications noted."""

import threading
from typing import Any

import httpx
import pytest

from runyard import Event, send
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel, replay
from runyard.testing import Invocation
from tests import remote_work
from tests.conftest import wait_until
from tests.http.invocations import freeze, only, ran, started
from tests.sdk_apps import JAVASCRIPT_VERSIONS, SdkApp
from tests.tables import rows

SCRIPT = "working"
# The SDK for Python has no race.
only_javascript = pytest.mark.parametrize("serving", JAVASCRIPT_VERSIONS, indirect=True)


def test_steps_run_once_and_their_results_are_kept_by_name(app: SdkApp) -> None:
    made = ran("work/serial", n=1)
    assert made.output == {"one": 2, "two": 4}
    assert app.ledger() == ["one", "two", "three"]
    assert {name: step.output for name, step in made.steps.items()} == {
        "one": {"data": 2},
        "two": {"data": 4},
        "three": {"data": {"one": 2, "two": 4}},
    }


@pytest.mark.parametrize("value", ["text", 5, None, [], {"a": [1, None]}, "", 0, False])
def test_what_a_function_returns_is_its_output(app: SdkApp, value: Any) -> None:
    made = ran("work/plain", value=value)
    assert (made.status, made.output) == ("succeeded", value)


def test_a_function_that_throws_is_tried_again_and_then_handled_once(app: SdkApp) -> None:
    freeze()
    made = ran("work/throws", n=7)
    assert (made.status, app.ledger()) == ("queued", [0])
    remote_work.advance(minutes=5)
    assert made.status == "failed"
    assert made.error is not None
    assert made.error["message"] == "boom"
    assert "boom" in made.error["traceback"]
    zero, one, failure = app.ledger()
    assert (zero, one) == (0, 1)
    assert failure["error"] == "boom"
    assert failure["data"] == {"n": 7}
    assert failure["function_id"] == "shop-throws"
    assert failure["run_id"]


def test_an_error_that_is_final_is_not_tried_again(app: SdkApp) -> None:
    made = ran("work/fatal")
    assert (made.status, app.ledger()[0]) == ("failed", 0)
    assert [entry["error"] for entry in app.ledger()[1:]] == ["never"]


def test_the_next_attempt_is_made_when_the_function_has_asked_for_it(app: SdkApp) -> None:
    now = freeze()
    made = ran("work/patient")
    assert 3_590 < (made.due - now).total_seconds() < 3_610
    remote_work.advance(minutes=59)
    assert made.status == "queued"
    remote_work.advance(minutes=2)
    assert (made.output, app.ledger()) == ("done", [0, 1])


def test_a_step_that_fails_for_good_fails_the_run(app: SdkApp) -> None:
    freeze()
    made = ran("work/failing_step")
    remote_work.advance(minutes=5)
    assert made.status == "failed"
    assert app.ledger()[:3] == ["good", "bad", "bad"]
    assert [entry["error"] for entry in app.ledger()[3:]] == ["no"]


def test_a_function_may_catch_what_a_step_has_failed_with(app: SdkApp) -> None:
    freeze()
    made = ran("work/failing_step", catch=True)
    remote_work.advance(minutes=5)
    assert (made.status, made.output) == ("succeeded", {"error": "no"})
    assert app.ledger() == ["good", "bad", "bad"]


def test_a_sleep_ends_on_time(app: SdkApp) -> None:
    now = freeze()
    made = ran("work/nap")
    assert made.status == "sleeping"
    assert abs((made.due - now).total_seconds() - 2 * 86_400) < 5
    remote_work.advance(hours=47)
    assert app.ledger() == ["before"]
    remote_work.advance(hours=2)
    assert (made.output, app.ledger()) == ("awake", ["before", "after"])


def test_a_sleep_until_a_time_in_the_past_is_over_at_once(app: SdkApp) -> None:
    made = ran("work/nap", until="2020-01-01T00:00:00+00:00")
    assert (made.output, app.ledger()) == ("awake", ["before", "after"])


def test_a_wait_ends_with_the_event_that_fits(app: SdkApp) -> None:
    first, second = ran("work/wait", n=1), ran("work/wait", n=2)
    send("work/answer", {"n": 1, "kind": "perhaps"})
    send("work/answer", {"n": 2, "kind": "yes"})
    remote_work.work()
    assert (first.status, second.status) == ("waiting", "succeeded")
    assert second.output == {"name": "work/answer", "data": {"n": 2, "kind": "yes"}}


def test_an_event_counts_that_came_before_the_wait(app: SdkApp) -> None:
    made = started("work/wait", n=1)
    send("work/answer", {"n": 1, "kind": "no"})
    remote_work.work()
    assert made.output == {"name": "work/answer", "data": {"n": 1, "kind": "no"}}


def test_a_wait_gives_nothing_once_its_time_is_over(app: SdkApp) -> None:
    freeze()
    made = ran("work/wait", n=1)
    remote_work.advance(minutes=61)
    assert (made.status, made.output) == ("succeeded", None)


def test_an_invoked_function_gives_its_value_or_its_error(app: SdkApp) -> None:
    freeze()
    made = ran("work/parent")
    remote_work.advance(minutes=11)
    assert made.status == "succeeded"
    assert made.output["good"] == {"value": {"got": 5, "event": "inngest/function.invoked"}}
    assert made.output["bad"] == {"error": "child failed"}
    assert made.output["slow"] == {"error": "the invoked function has not ended in time"}


def test_parallel_steps_run_once_each(app: SdkApp) -> None:
    freeze()
    made = ran("work/parallel")
    assert (made.status, sorted(app.ledger())) == ("sleeping", ["a", "b", "c"])
    remote_work.advance(hours=2)
    assert (made.output, app.ledger()[3:]) == ("ABC", ["last"])


@only_javascript
def test_after_a_race_the_function_goes_on_with_the_winner(app: SdkApp) -> None:
    freeze()
    made = ran("work/race")
    assert app.ledger() == ["quick", "after"]
    remote_work.advance(hours=2)  # version 4 ends only when the loser has
    assert (made.output, app.ledger()) == ("quick", ["quick", "after"])


def test_a_running_function_that_is_cancelled_does_nothing_more(app: SdkApp) -> None:
    made = started("work/held")
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: app.ledger() == ["held"])
    assert cancel(Selection(invocations=(made.id,))) == 1
    running.join(20)
    assert not running.is_alive()
    assert made.status == "cancelled"
    app.clear()
    remote_work.work()
    assert (made.status, app.ledger()) == ("cancelled", [])


def test_a_sleeping_function_that_is_cancelled_does_not_wake_up(app: SdkApp) -> None:
    freeze()
    made = ran("work/nap")
    cancel(Selection(invocations=(made.id,)))
    remote_work.advance(days=3)
    assert (made.status, app.ledger()) == ("cancelled", ["before"])


def test_an_application_that_is_killed_in_a_call_is_called_again(app: SdkApp) -> None:
    freeze()
    made = started("work/held")
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: app.ledger() == ["held"])
    app.stop()
    running.join(20)
    assert made.status == "queued"
    app.run(SCRIPT)
    running = threading.Thread(target=remote_work.advance, kwargs={"minutes": 5})
    running.start()
    wait_until(lambda: app.ledger() == ["held"])
    app.clear()
    running.join(20)
    assert (made.status, app.ledger()) == ("succeeded", ["then"])


def test_odd_values_come_back_as_they_were(app: SdkApp) -> None:
    made = ran("work/odd", value=None, text="\u2028", number=1e21)
    assert made.output["found"] == list(range(9))
    assert made.output["data"] == {"value": None, "text": "\u2028", "number": 1e21}
    assert app.ledger() == list(range(9))
    assert made.steps['it\'s "n°5" 😀'].output == {
        "data": {"data": {"data": 1, "error": None}, "list": [None, 0, ""], "ключ": "é😀"}
    }


@pytest.mark.parametrize("kind", ["nul", "surrogate"])
def test_what_cannot_be_stored_fails_its_own_run_alone(app: SdkApp, kind: str) -> None:
    bad, good = started("work/unstorable", kind=kind), started("work/serial", n=1)
    remote_work.work()
    assert (bad.status, good.status) == ("failed", "succeeded")
    assert bad.error is not None


def gathered(count: int, **data: Any) -> list[Invocation]:
    """Send events of one batch, and return their invocations."""
    ids = send([Event("work/gather", {"n": n, **data}) for n in range(count)])
    return [only(id) for id in ids]


def test_a_batch_of_events_is_one_run(app: SdkApp) -> None:
    made = gathered(10)
    remote_work.work()
    everything = list(range(10))
    assert app.ledger() == [everything]
    assert [each.status for each in made] == ["succeeded"] * 10
    assert [each.output for each in made] == [{"first": 0, "all": everything}] * 10
    assert [len(each.steps) for each in made] == [1] + [0] * 9


def test_a_batch_that_is_not_full_runs_after_its_timeout(app: SdkApp) -> None:
    freeze()
    gathered(3)
    remote_work.advance(seconds=29)
    assert app.ledger() == []
    remote_work.advance(seconds=2)
    assert app.ledger() == [[0, 1, 2]]


def test_a_batch_has_one_value_of_its_key(app: SdkApp) -> None:
    freeze()
    gathered(2, tenant="a")
    gathered(3, tenant="b")
    remote_work.advance(seconds=31)
    assert sorted(app.ledger()) == [[0, 1], [0, 1, 2]]


def test_an_event_that_is_not_to_be_batched_runs_alone_at_once(app: SdkApp) -> None:
    freeze()
    gathered(2)
    gathered(2, alone=True)
    remote_work.work()
    assert sorted(app.ledger()) == [[0], [1]]


def test_a_batch_that_fails_is_tried_again_as_it_was_and_handled_once(app: SdkApp) -> None:
    freeze()
    made = gathered(3, fail=True)
    remote_work.advance(seconds=31)
    assert [each.status for each in made] == ["queued", "grouped", "grouped"]
    gathered(2)
    remote_work.advance(minutes=5)
    assert [each.status for each in made] == ["failed"] * 3
    handled = {"error": "no batch", "first": 0, "all": [0, 1, 2]}
    calls = [[0, 1, 2], "fails", "fails", handled]
    assert [call for call in app.ledger() if call != [0, 1]] == calls


def test_a_batch_sleeps_as_one(app: SdkApp) -> None:
    freeze()
    made = gathered(10, sleep=True)
    remote_work.work()
    assert [each.status for each in made] == ["sleeping"] + ["grouped"] * 9
    remote_work.advance(minutes=61)
    assert [each.status for each in made] == ["succeeded"] * 10
    assert app.ledger() == [list(range(10))]


def test_one_event_of_a_batch_is_cancelled_with_all_of_it(app: SdkApp) -> None:
    made = gathered(10, hold=True)
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: app.ledger()[1:] == ["held"])
    assert cancel(Selection(invocations=(made[4].id,))) == 10
    running.join(20)
    assert [each.status for each in made] == ["cancelled"] * 10


def test_a_replay_of_one_event_of_a_batch_runs_all_of_it_again(app: SdkApp) -> None:
    made = gathered(10)
    remote_work.work()
    replay(Selection(invocations=(made[7].id,)))
    remote_work.work()
    assert app.ledger() == [list(range(10))] * 2
    [row] = rows("SELECT count(*) FROM runyard.invocations WHERE status = 'succeeded'")
    assert row["count"] == 20


def test_a_batch_whose_application_was_killed_is_called_again_as_it_was(app: SdkApp) -> None:
    freeze()
    made = gathered(10, hold=True)
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: app.ledger()[1:] == ["held"])
    app.stop()
    running.join(20)
    assert [each.status for each in made] == ["queued"] + ["grouped"] * 9
    app.run(SCRIPT)
    gathered(10)
    running = threading.Thread(target=remote_work.advance, kwargs={"minutes": 5})
    running.start()
    wait_until(lambda: "held" in app.ledger())
    app.clear()
    running.join(20)
    assert {each.status for each in made} == {"succeeded"}
    assert made[3].output == {"first": 0, "all": list(range(10))}


def test_the_pages_of_a_batch_lead_to_each_other(app: SdkApp, developing: str) -> None:
    first, second, *others = gathered(10)
    remote_work.work()
    leading = httpx.get(f"{developing}/dev/invocations/{first.id}").text
    assert "10 events" in leading
    assert all(f"/dev/invocations/{each.id}" in leading for each in (second, *others))
    led = httpx.get(f"{developing}/dev/invocations/{second.id}").text
    assert f"/dev/invocations/{first.id}" in led
    assert "Events of the batch" not in led


def test_the_events_of_a_batch_have_one_run(app: SdkApp, developing: str) -> None:
    ids = send([Event("work/gather", {"n": n}) for n in range(10)])
    remote_work.work()
    runs = [httpx.get(f"{developing}/v1/events/{id}/runs").json()["data"] for id in ids]
    assert {len(each) for each in runs} == {1}
    assert {each[0]["run_id"] for each in runs} == {str(only(ids[0]).id)}
    assert {each[0]["output"]["first"] for each in runs} == {0}


def test_a_batch_that_is_too_large_for_a_call_is_fetched(app: SdkApp) -> None:
    made = gathered(10, text="x" * 480_000)
    remote_work.work()
    assert {each.status for each in made} == {"succeeded"}
    assert app.ledger() == [list(range(10))]


def test_a_state_that_is_too_large_for_a_call_is_fetched(app: SdkApp) -> None:
    made = ran("work/large")
    assert (made.output, app.ledger()) == (7_000_000, list(range(7)))


def test_a_condition_decides_what_starts_a_function(app: SdkApp) -> None:
    for data in ({"kind": "a", "n": 2}, {"kind": "c", "n": 2}, {"kind": "a"}, {}):
        send("work/chosen", data)
    remote_work.work()
    assert rows(
        "SELECT data FROM runyard.invocations JOIN runyard.events ON events.id = event_id"
    ) == [{"data": {"kind": "a", "n": 2}}]


def test_several_triggers_start_a_function_once(app: SdkApp) -> None:
    assert ran("choose/this").output == "choose/this"
