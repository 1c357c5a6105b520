"""Rules and invocations of applications' functions, judged by what the applications noted."""

import json
import threading
from datetime import UTC
from functools import partial
from typing import Any

import httpx
import pytest

from runyard import clock, send
from runyard.apps import catalog
from runyard.dagster_adapter.schedules import send_scheduled, timer_event
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.engine.waits import invocation_of
from runyard.events import as_json
from runyard.functions import registry
from runyard.testing import Invocation
from tests import remote_work
from tests.conftest import wait_until
from tests.http.invocations import freeze, ran, started
from tests.sdk_apps import SdkApp
from tests.tables import rows

SCRIPT = "ruled"


@pytest.fixture
def app(app: SdkApp) -> SdkApp:
    """The application, in a time that stands still."""
    freeze()
    return app


def asking(function: str, **more: Any) -> Invocation:
    """A function that invokes another one, executed as far as it gets."""
    return ran("rule/ask", function=function, data={"n": 1, "k": 1}, **more)


def child_of(parent: Invocation) -> Invocation:
    """What a function has invoked."""
    return Invocation(invoked_by(parent)["id"])


def invoked_by(parent: Invocation) -> dict[str, Any]:
    """What a function has invoked: the invocation, and its event's name and data."""
    [row] = rows(
        "SELECT invocations.id, name, data FROM runyard.invocations"
        " JOIN runyard.events ON events.id = event_id WHERE events.caused_by = %s",
        parent.id,
    )
    return row


def end(status: str, output: Any, *, of: str) -> None:
    """End the open invocation of a function of the code."""
    rows(
        "UPDATE runyard.invocations SET status = %s, output = %s, error = %s, finished_at = now()"
        " WHERE function = %s AND finished_at IS NULL RETURNING id",
        status,
        json.dumps(output) if status == "succeeded" else None,
        json.dumps({"type": "Error", "message": output}) if status == "failed" else None,
        of,
    )


@pytest.mark.parametrize("function", ["nothing", "ask-failure", "greet_again"])
def test_a_function_that_does_not_exist_cannot_be_invoked(app: SdkApp, function: str) -> None:
    made = asking(function)
    assert made.status == "succeeded"
    assert f"invoke('shop-{function}'): there is no such function" in made.output["error"]


def test_a_function_that_an_application_has_no_longer_cannot_be_invoked(app: SdkApp) -> None:
    rows("UPDATE runyard.functions SET active = false WHERE name = 'shop_once' RETURNING name")
    made = asking("once")
    assert "invoke('shop_once'): there is no such function" in made.output["error"]


def test_a_function_that_skips_what_is_invoked_gives_an_error(app: SdkApp) -> None:
    first, second = asking("limited"), asking("limited")
    remote_work.work()
    assert app.ledger() == [1]
    assert first.output == {"value": 1 if app.kind == "javascript" else None}
    assert second.output["error"].startswith("rate limit")


def test_a_function_that_is_cancelled_gives_an_error(app: SdkApp) -> None:
    made = asking("timed")
    assert made.status == "waiting"
    cancel(Selection(invocations=(child_of(made).id,)))
    remote_work.work()
    assert made.output == {"error": "cancelled in bulk"}


def test_a_function_that_takes_too_long_by_its_own_rule_gives_an_error(app: SdkApp) -> None:
    made = asking("timed")
    remote_work.advance(minutes=61)
    assert made.output == {"error": "timeout: it did not begin or end in time"}


@pytest.mark.parametrize("app_id", ["runyard", "shop", None])
def test_a_function_of_the_code_is_invoked_by_its_name(app: SdkApp, app_id: str | None) -> None:
    made = asking("greet", **({"app": app_id} if app_id else {}))
    child = invoked_by(made)
    assert child["name"] == "greet/requested"
    assert child["data"] == {"n": 1, "k": 1}
    end("succeeded", {"hello": 1}, of="greet")
    remote_work.work()
    assert made.output == {"value": {"hello": 1}}


def test_the_error_of_a_function_of_the_code_can_be_caught(app: SdkApp) -> None:
    made = asking("greet", app="runyard")
    end("failed", "no luck", of="greet")
    remote_work.work()
    assert made.output == {"error": "no luck"}


def test_a_process_without_the_code_knows_its_functions(app: SdkApp) -> None:
    with registry.use():
        made = asking("greet", app="runyard")
    assert made.status == "waiting"
    assert invoked_by(made)["name"] == "greet/requested"


def test_a_function_of_the_code_invokes_one_of_an_application(app: SdkApp) -> None:
    wait, event = invocation_of("shop_once", {"n": 5, "k": 1}, 1)
    assert wait["kind"] == "invoke"
    rows("SELECT id FROM runyard.send_v1(%s::jsonb, 'python') AS sent (id)", as_json([event]))
    remote_work.work()
    assert app.ledger() == [5]


def test_a_key_may_be_made_of_several_values(app: SdkApp) -> None:
    for n, (a, b) in enumerate([("x", "y"), ("x", "y"), ("x", "z")]):
        started("rule/keyed", n=n, a=a, b=b)
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: sorted(app.ledger()) == [0, 2])
    app.clear()
    wait_until(lambda: app.ledger() == [1])
    app.clear()
    running.join(20)
    assert not running.is_alive()


def test_a_throttle_spreads_starts(app: SdkApp) -> None:
    for n in range(3):
        started("rule/throttled", n=n)
    remote_work.work()
    assert app.ledger() == [0]
    remote_work.advance(seconds=11)
    assert app.ledger() == [0, 1]
    remote_work.advance(seconds=10)
    assert app.ledger() == [0, 1, 2]


def test_a_rate_limit_skips_what_is_beyond_it_for_its_key(app: SdkApp) -> None:
    for n, k in enumerate(["a", "a", "b"]):
        started("rule/limited", n=n, k=k)
    remote_work.advance(minutes=61)
    assert sorted(app.ledger()) == [0, 2]


def test_an_idempotency_key_counts_once(app: SdkApp) -> None:
    for n, k in enumerate(["a", "a", "b"]):
        started("rule/once", n=n, k=k)
    remote_work.advance(hours=2)
    assert sorted(app.ledger()) == [0, 2]


def test_a_debounce_runs_the_last_event(app: SdkApp) -> None:
    for n in range(3):
        started("rule/debounced", n=n, k="a")
    remote_work.work()
    assert app.ledger() == []
    remote_work.advance(seconds=11)
    assert app.ledger() == [2]


def test_a_priority_is_an_expression(app: SdkApp) -> None:
    for n, vip in enumerate([False, False, True]):
        started("rule/urgent", n=n, vip=vip)
    remote_work.work()
    assert app.ledger() == [2, 0, 1]


def test_a_singleton_skips_what_comes_meanwhile(app: SdkApp) -> None:
    ran("rule/single", n=1, k="a")
    skipped = ran("rule/single", n=2, k="a")
    ran("rule/single", n=3, k="b")
    assert app.ledger() == [1, 3]
    assert skipped.status == "skipped"


def test_a_singleton_may_cancel_what_runs(app: SdkApp) -> None:
    cancelled = ran("rule/latest", n=1, k="a")
    ran("rule/latest", n=2, k="a")
    remote_work.advance(hours=3)
    assert app.ledger() == [1, 2, "2 awake"]
    assert cancelled.status == "cancelled"


def test_a_run_that_takes_too_long_is_cancelled(app: SdkApp) -> None:
    made = ran("rule/timed", n=1)
    remote_work.advance(minutes=59)
    assert made.status == "sleeping"
    remote_work.advance(hours=3)
    assert made.status == "cancelled"
    assert app.ledger() == [1]


def test_an_event_cancels_the_runs_that_its_condition_means(app: SdkApp) -> None:
    first, second = ran("rule/cancelled", n=1), ran("rule/cancelled", n=2)
    send("rule/stop", {"n": 1})
    remote_work.advance(hours=3)
    assert first.status == "cancelled"
    assert second.status == "succeeded"
    assert app.ledger() == [1, 2, "2 awake"]


def test_a_schedule_in_a_time_zone_starts_a_function_once_for_each_time(app: SdkApp) -> None:
    remote = catalog.remote_function("shop_ticking")
    assert remote is not None
    [schedule] = remote.schedules
    assert schedule.cron.timezone == "Europe/Paris"
    assert schedule.cron.parts == ["0 5 * * *"]
    at = clock.now().astimezone(UTC)
    for _ in range(2):
        send_scheduled(
            "shop_ticking", schedule.cron, "0 5 * * *", at, partial(timer_event, schedule)
        )
        httpx.put(app.url, json={"url": app.url}, timeout=30)
    remote_work.work()
    cron = "TZ=Europe/Paris 0 5 * * *"
    assert app.ledger() == [{"name": "inngest/scheduled.timer", "cron": cron}]
