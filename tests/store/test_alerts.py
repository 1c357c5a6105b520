"""Alerts: what receivers are told of failures, how often, and what happens when they are away."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, job, op
from sqlalchemy.exc import SQLAlchemyError

from runyard import send
from runyard.cli.main import main
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import alert_ledger, batch_claims, batch_leases, settlement
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from runyard.processes import alert_delivery, alert_message
from runyard.processes.alert_delivery import AlertNotSent, deliver, name_of, reach
from runyard.processes.alerts import Alerts, alerts_thread
from runyard.settings import Settings, settings
from runyard.store import database
from runyard.text.redaction import redact
from tests.conftest import wait_until
from tests.fake_service import FakeService
from tests.ports import free_port
from tests.tables import empty_tables, rows

NAME = "runyard alerts"
PATH = "/services/T0/secret-of-the-webhook"


@op
def nightly_op() -> None:
    raise RuntimeError("the disk is full, password=hunter2secret")


@job
def nightly() -> None:
    nightly_op()


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The Dagster instance of the project, in the database of these tests."""
    with DagsterInstance.get() as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[FakeService]:
    """A webhook that accepts everything."""
    with FakeService() as made:
        made.answers[PATH] = 200, b"ok", {}
        yield made


@pytest.fixture(autouse=True)
def nothing_told(empty: None) -> None:
    """Begin with receivers that have been told nothing."""
    empty_tables("runyard.alerts")


@pytest.fixture
def alerts(receiver: FakeService, instance: DagsterInstance) -> Alerts:
    """The alerts of a daemon that has begun to look."""
    made = Alerts([receiver.url + PATH])
    made.send(instance)
    return made


@pytest.fixture
def mailer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The project's module for mail, whose `send` a test is to give it."""
    made = ModuleType("mails_of_the_shop")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(settings(), "mail", made.__name__)
    return made


@pytest.fixture
def fail(function: Function) -> Callable[..., list[int]]:
    """Lets some invocations of `greet` fail for good; returns them."""

    def go(count: int = 1, message: str = "no card") -> list[int]:
        for _ in range(count):
            send("greet/requested")
        failed: list[int] = []
        error = json.dumps({"step": "pay", "type": "KeyError", "message": message})
        while claims := batch_claims.claim(function):
            for claim in claims:
                begun = batch_leases.begin(claim.batch_id, "run")
                assert begun is not None
                ids = [row["id"] for row in begun[1]]
                outcomes = [Outcome(each, "failed", error=error) for each in ids]
                settlement.settle(claim.batch_id, "run", outcomes)
                failed += ids
        return failed

    return go


def bodies(receiver: FakeService) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, _, body in receiver.requests]


def a_minute_later() -> None:
    with database.connection() as connection:
        connection.execute("UPDATE runyard.alerts SET sent_at = sent_at - interval '1 minute'")


def test_a_failure_is_told_with_its_error_and_a_link(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    [invocation] = fail()
    assert alerts.send(instance) == 1
    [body] = bodies(receiver)
    url = f"http://127.0.0.1:{settings().port}/dev/invocations/{invocation}"
    assert body["text"] == f"Runyard (production)\ngreet failed: KeyError: no card\n{url}"
    [failure] = body["failures"]
    assert (failure["function"], failure["count"], failure["url"]) == ("greet", 1, url)


def test_what_failed_before_anybody_looked_is_not_told(
    receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail(3)
    made = Alerts([receiver.url + PATH])
    assert [made.send(instance), made.send(instance)] == [0, 0]


def test_a_failure_is_told_once(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail()
    alerts.send(instance)
    a_minute_later()
    assert alerts.send(instance) == 0


def test_further_failures_of_a_function_are_told_together_a_minute_later(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail()
    alerts.send(instance)
    first = fail(12, "again")[0]
    assert alerts.send(instance) == 0
    a_minute_later()
    assert alerts.send(instance) == 1
    text = bodies(receiver)[-1]["text"]
    assert "12 failures of greet in the last minute, the first: KeyError: again\n" in text
    assert f"/dev/invocations/{first}" in text


def test_a_daemon_that_starts_again_tells_what_it_has_missed(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail()
    assert Alerts([receiver.url + PATH]).send(instance) == 1


def test_what_was_dismissed_meanwhile_is_told_with_a_link_to_the_function(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail()
    with database.connection() as connection:
        connection.execute("UPDATE runyard.invocations SET dismissed_at = now()")
    alerts.send(instance)
    assert bodies(receiver)[0]["text"].endswith("/dev/functions/greet")


@pytest.mark.parametrize("trouble", [500, 404, 302, "reset"])
def test_a_receiver_that_is_away_is_told_later_of_everything(
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    trouble: Any,
) -> None:
    now = 0.0
    made = Alerts([receiver.url + PATH], lambda: now)
    made.send(instance)
    fail()
    receiver.failures.append(trouble)
    assert made.send(instance) == 0
    fail(2)
    assert made.send(instance) == 0
    assert len(receiver.requests) == 1
    now = 1.0
    assert made.send(instance) == 1
    assert bodies(receiver)[-1]["failures"][0]["count"] == 3


class Door:
    """Holds up what goes through it until it is opened; knows whether something has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.is_passed = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.open.wait()
        self.is_passed.set()


def ended() -> bool:
    """Whether no alert is on its way."""
    return all(delivery.done() for delivery in alert_delivery._left_alone.values())


@pytest.fixture
def slow_mailer(
    mailer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Door, list[Any]]]:
    """A mailer that takes longer than is waited for, and the mails that have gone out."""
    door, mails = Door(), list[Any]()

    def send(*mail: str) -> None:
        door()
        mails.append(mail)

    vars(mailer)["send"] = send
    monkeypatch.setattr(alert_delivery, "MAIL_SECONDS", 0.1)
    yield door, mails
    door.open.set()


def test_a_mail_that_goes_out_late_is_not_sent_again(
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    slow_mailer: tuple[Door, list[Any]],
) -> None:
    door, mails = slow_mailer
    now = 0.0
    made = Alerts(["mailto:ops@example.com"], lambda: now)
    made.send(instance)
    fail()
    run_nightly(instance)
    assert made.send(instance) == 0
    now = 10.0
    assert made.send(instance) == 0
    door.open.set()
    wait_until(ended)
    now = 20.0
    assert made.send(instance) == 1
    a_minute_later()
    assert made.send(instance) == 0
    assert len(mails) == 1


def test_what_fails_while_a_mail_is_on_its_way_is_told_with_its_own_error(
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    slow_mailer: tuple[Door, list[Any]],
) -> None:
    door, mails = slow_mailer
    now = 0.0
    made = Alerts(["mailto:ops@example.com"], lambda: now)
    made.send(instance)
    fail()
    made.send(instance)
    fail(message="no bank")
    door.open.set()
    wait_until(ended)
    now = 10.0
    made.send(instance)
    a_minute_later()
    made.send(instance)
    assert "greet failed: KeyError: no bank" in mails[1][2]


def test_a_mail_that_fails_late_is_sent_again(
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    mailer: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mails: list[Any] = []
    door = Door()

    def refuse_first(*mail: str) -> None:
        if not door.is_passed.is_set():
            door()
            raise OSError("the mail server is away")
        mails.append(mail)

    vars(mailer)["send"] = refuse_first
    monkeypatch.setattr(alert_delivery, "MAIL_SECONDS", 0.1)
    now = 0.0
    made = Alerts(["mailto:ops@example.com"], lambda: now)
    made.send(instance)
    fail()
    made.send(instance)
    door.open.set()
    wait_until(ended)
    monkeypatch.setattr(alert_delivery, "MAIL_SECONDS", 30)
    now = 10.0
    assert made.send(instance) == 1
    assert len(mails) == 1


def test_a_webhook_that_answers_late_is_not_told_again(
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alert_delivery, "SECONDS", 0.1)
    now = 0.0
    made = Alerts([receiver.url + PATH], lambda: now)
    made.send(instance)
    fail()
    receiver.failures.append("slow")
    assert made.send(instance) == 0
    wait_until(ended)
    now = 10.0
    assert made.send(instance) == 1
    assert len(receiver.requests) == 1


def test_a_webhook_that_does_not_answer_at_all_is_told_again(
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    made = Alerts([receiver.url + PATH], lambda: now)
    made.send(instance)
    fail()
    receiver.failures.append("slow")
    with monkeypatch.context() as short:
        short.setattr(alert_delivery, "SECONDS", 0.1)
        short.setattr(alert_delivery, "LATE_SECONDS", 0.2)
        made.send(instance)
        wait_until(ended)
    now = 10.0
    assert made.send(instance) == 1


def test_a_redirect_is_not_followed(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail()
    receiver.failures.append((307, {"Location": f"{receiver.url}/elsewhere"}))
    alerts.send(instance)
    assert receiver.asked == [("POST", PATH)]


def test_a_receiver_that_is_away_holds_up_no_other(
    receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    made = Alerts(["http://127.0.0.1:9/nobody", receiver.url + PATH])
    made.send(instance)
    fail()
    assert made.send(instance) == 1


def test_what_is_wrong_with_the_rows_of_one_receiver_holds_up_no_other(
    receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    first = Alerts(["http://127.0.0.1:9/nobody"])
    first.send(instance)
    rows("UPDATE runyard.alerts SET since = 'infinity' RETURNING since::text")
    made = Alerts(["http://127.0.0.1:9/nobody", receiver.url + PATH])
    for _ in range(2):
        with pytest.raises(psycopg.DataError):
            made.send(instance)
        fail()
    with pytest.raises(psycopg.DataError):
        made.send(instance)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("table", ["event_logs", "runyard.tallies"])
def test_an_error_of_the_storage_silences_no_receiver(
    alerts: Alerts,
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    table: str,
) -> None:
    fail()
    with without_table(table), pytest.raises((psycopg.Error, SQLAlchemyError)):
        alerts.send(instance)
    assert alerts.send(instance) == 1


@contextmanager
def without_table(table: str) -> Iterator[None]:
    """A database in which a table has another name."""
    schema, _, name = table.rpartition(".")
    prefix = f"{schema}." if schema else ""
    with database.connection() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO hidden".encode())
        try:
            yield
        finally:
            connection.execute(f"ALTER TABLE {prefix}hidden RENAME TO {name}".encode())


@pytest.fixture
def endless_look_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looking up a name takes for ever, and a receiver is waited for briefly."""
    found = threading.Event()

    def look_up(*_: object, **__: object) -> Any:
        found.wait()
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(alert_delivery, "SECONDS", 0.2)
    yield
    found.set()


@pytest.mark.usefixtures("endless_look_up")
def test_a_name_that_takes_for_ever_to_look_up_takes_no_longer_than_the_limit() -> None:
    with pytest.raises(AlertNotSent, match=r"did not answer within 0\.2 seconds"):
        deliver("http://slow.example/hook", "subject", "text", b"{}")


@pytest.mark.usefixtures("endless_look_up")
def test_a_receiver_whose_name_is_still_being_looked_up_is_sent_nothing_else() -> None:
    with pytest.raises(AlertNotSent):
        deliver("http://slow.example/hooks", "subject", "text", b"{}")
    with pytest.raises(AlertNotSent, match="has not answered the last time yet"):
        deliver("http://slow.example/hooks", "subject", "text", b"{}")


_LOOKS_UP_FOR_EVER = """
import socket
import threading

from runyard.processes import alert_delivery

socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
alert_delivery.SECONDS = 0.2
try:
    alert_delivery.reach("http://slow.example/hook")
except alert_delivery.AlertNotSent as error:
    print(error)
"""


def test_a_process_does_not_wait_for_a_name_when_it_ends() -> None:
    command = [sys.executable, "-c", _LOOKS_UP_FOR_EVER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.startswith("slow.example did not answer within 0.2 seconds")


@pytest.mark.usefixtures("endless_look_up")
def test_doctor_waits_no_longer_for_a_name_than_the_limit() -> None:
    with pytest.raises(AlertNotSent, match=r"did not answer within 0\.2 seconds"):
        reach("http://slow.example/looked-at")


def test_a_mailer_that_takes_for_ever_takes_no_longer_than_the_limit(
    mailer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Event()
    vars(mailer)["send"] = lambda *_: sent.wait()
    monkeypatch.setattr(alert_delivery, "MAIL_SECONDS", 0.2)
    try:
        with pytest.raises(AlertNotSent, match=r"ops@example\.com did not answer within"):
            deliver("mailto:ops@example.com", "subject", "text", b"{}")
    finally:
        sent.set()


def test_a_webhook_is_named_in_the_log_by_its_host_alone(
    alerts: Alerts,
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail()
    receiver.failures.append(500)
    alerts.send(instance)
    assert "no alert to 127.0.0.1: AlertNotSent (127.0.0.1 answered 500" in caplog.text
    assert PATH not in caplog.text


@pytest.fixture
def three_receivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two webhooks on one host, and a mail address between them."""
    monkeypatch.setenv(
        "RUNYARD_ALERTS",
        "https://hooks.example/first,mailto:ops@hooks.example,https://hooks.example/second",
    )
    settings.cache_clear()
    yield settings().alert_receivers
    settings.cache_clear()


def test_webhooks_on_one_host_are_told_apart_by_their_places(three_receivers: list[str]) -> None:
    assert [name_of(each) for each in three_receivers] == [
        "hooks.example (1)",
        "ops@hooks.example",
        "hooks.example (3)",
    ]


@pytest.mark.usefixtures("three_receivers")
def test_a_webhook_that_is_no_receiver_has_no_place() -> None:
    assert name_of("https://hooks.example/third") == "hooks.example"


def test_a_test_alert_says_which_webhook_of_a_host_does_not_take_it(
    receiver: FakeService, command: Callable[[str], Any]
) -> None:
    receiver.answers["/second"] = 404, b"", {}
    result = command(f"{receiver.url}{PATH},{receiver.url}/second")
    assert result.output == (
        "sent to 127.0.0.1 (1)\n127.0.0.1 (2) answered 404: check the address of the webhook\n"
    )


def test_the_addresses_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_ALERTS", f"https://hooks.example{PATH},mailto:ops@example.com")
    assert PATH not in repr(Settings())
    assert redact(f"POST https://hooks.example{PATH}") == "POST [redacted]"


def test_an_error_calls_nobody_and_breaks_no_markup(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail(message="<!channel> & @here")
    alerts.send(instance)
    assert "&lt;!channel&gt; &amp; @\u200bhere" in bodies(receiver)[0]["text"]


def test_a_long_error_is_cut(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance, fail: Callable[..., list[int]]
) -> None:
    fail(message="x" * 9_000)
    alerts.send(instance)
    assert len(bodies(receiver)[0]["text"]) < 600


def run_nightly(instance: DagsterInstance, **tags: str) -> str:
    return nightly.execute_in_process(instance=instance, raise_on_error=False, tags=tags).run_id


def test_the_failed_run_of_a_job_is_told(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance
) -> None:
    run_id = run_nightly(instance)
    assert alerts.send(instance) == 1
    text = bodies(receiver)[0]["text"]
    error = "RuntimeError: the disk is full, password=[redacted]"
    assert f"the job nightly failed: {error}\n" in text
    assert text.endswith(f"/runs/{run_id}")


def test_the_failed_run_of_a_job_is_told_once(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance
) -> None:
    run_nightly(instance)
    alerts.send(instance)
    a_minute_later()
    assert alerts.send(instance) == 0


def test_further_failed_runs_are_told_together_a_minute_later(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance
) -> None:
    run_nightly(instance)
    alerts.send(instance)
    run_nightly(instance)
    run_nightly(instance)
    assert alerts.send(instance) == 0
    a_minute_later()
    alerts.send(instance)
    assert bodies(receiver)[-1]["failures"][0]["count"] == 2


def test_a_failed_run_that_is_committed_late_is_told_too(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance
) -> None:
    late = run_nightly(instance)
    # As if its transaction were still open.
    rows("UPDATE event_logs SET dagster_event_type = 'LATE' WHERE run_id = %s RETURNING id", late)
    told = run_nightly(instance)
    assert alerts.send(instance) == 1
    rows(
        "UPDATE event_logs SET dagster_event_type = 'PIPELINE_FAILURE' WHERE id ="
        " (SELECT max(id) FROM event_logs WHERE run_id = %s AND event LIKE '%%PIPELINE_FAILURE%%')"
        " RETURNING id",
        late,
    )
    a_minute_later()
    assert alerts.send(instance) == 1
    assert [body["text"].rpartition("/")[2] for body in bodies(receiver)] == [told, late]
    a_minute_later()
    assert alerts.send(instance) == 0


def test_a_failed_run_whose_log_cannot_be_read_is_told(
    alerts: Alerts, receiver: FakeService, instance: DagsterInstance
) -> None:
    run_id = run_nightly(instance)
    rows(
        "UPDATE event_logs SET event = '{' WHERE run_id = %s"
        " AND dagster_event_type = 'STEP_FAILURE' RETURNING id",
        run_id,
    )
    assert alerts.send(instance) == 1
    assert "the job nightly failed: its log cannot be read (" in bodies(receiver)[0]["text"]


def test_many_failures_are_told_with_the_time_since_when_they_can_have_come(
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alert_ledger, "MOST_LATEST", 2)
    monkeypatch.setattr(alert_message, "MOST_LATEST", 2)
    now = 0.0
    made = Alerts([receiver.url + PATH], lambda: now)
    made.send(instance)
    receiver.failures.append(503)
    fail()
    made.send(instance)
    rows("UPDATE runyard.alerts SET since = since - interval '5 hours' RETURNING since")
    fail(2)
    now = 1.0
    made.send(instance)
    assert (
        "3 failures of greet in the last 5 hours, one of the latest: KeyError"
        in (bodies(receiver)[-1]["text"])
    )


def test_the_run_of_a_function_is_told_by_its_invocations_alone(
    alerts: Alerts, instance: DagsterInstance
) -> None:
    run_nightly(instance, **{BATCH: "01BATCH"})
    assert alerts.send(instance) == 0


def test_an_alert_is_mailed_by_the_projects_mailer(
    instance: DagsterInstance, fail: Callable[..., list[int]], mailer: ModuleType
) -> None:
    mails: list[tuple[str, str, str]] = []
    vars(mailer)["send"] = lambda *mail: mails.append(mail)
    made = Alerts(["mailto:ops@example.com"])
    made.send(instance)
    fail()
    assert made.send(instance) == 1
    [(to, subject, text)] = mails
    assert (to, subject) == ("ops@example.com", "Runyard (production): failures of greet")
    assert "greet failed: KeyError: no card" in text


def test_without_a_receiver_there_is_no_thread(instance: DagsterInstance) -> None:
    assert alerts_thread(instance) is None


def test_the_thread_has_a_session_of_its_own_name_and_is_not_woken_by_events(
    receiver: FakeService, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_ALERTS", receiver.url + PATH)
    settings.cache_clear()
    thread = alerts_thread(instance)
    assert thread is not None
    try:
        thread.start()
        wait_until(lambda: rows("SELECT 1 AS n FROM runyard.alerts"))
        [session] = rows("SELECT query FROM pg_stat_activity WHERE application_name = %s", NAME)
    finally:
        thread.stop(10)
        settings.cache_clear()
    assert "pg_try_advisory_lock" in session["query"]


def test_the_daemons_thread_tells_a_failure(
    receiver: FakeService,
    instance: DagsterInstance,
    fail: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNYARD_ALERTS", receiver.url + PATH)
    monkeypatch.setattr("runyard.processes.alerts._INTERVAL_SECONDS", 0.1)
    settings.cache_clear()
    try:
        thread = alerts_thread(instance)
        assert thread is not None
        thread.start()
        wait_until(lambda: rows("SELECT 1 AS n FROM runyard.alerts"))
        fail()
        wait_until(lambda: receiver.requests)
        thread.stop(10)
    finally:
        settings.cache_clear()
    assert "greet failed" in bodies(receiver)[0]["text"]


@pytest.mark.parametrize("value", ["ops@example.com", "slack", "ftp://host/x", "mailto:nobody"])
def test_what_is_no_receiver_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_ALERTS", value)
    with pytest.raises(ValueError, match="not a list of receivers"):
        Settings()


@pytest.mark.parametrize("value", ["runyard.example.com", "ftp://host", "https://"])
def test_what_is_no_public_url_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_PUBLIC_URL", value)
    with pytest.raises(ValueError, match=r"write it as https://runyard\.example\.com"):
        Settings()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Runs `runyard alerts test` with these receivers."""

    def run(receivers: str) -> Any:
        monkeypatch.setenv("RUNYARD_ALERTS", receivers)
        settings.cache_clear()
        return CliRunner().invoke(main, ["alerts", "test"])

    yield run
    settings.cache_clear()


def test_a_test_alert_is_sent(receiver: FakeService, command: Callable[[str], Any]) -> None:
    result = command(receiver.url + PATH)
    assert (result.exit_code, result.output) == (0, "sent to 127.0.0.1\n")
    assert "this is a test" in bodies(receiver)[0]["text"]


def test_a_test_alert_says_what_is_wrong(
    receiver: FakeService, command: Callable[[str], Any]
) -> None:
    receiver.failures.append(403)
    result = command(receiver.url + PATH)
    assert result.exit_code == 1
    assert "127.0.0.1 answered 403: check the address of the webhook" in result.output


def test_a_test_alert_leads_to_the_dev_page(
    receiver: FakeService, command: Callable[[str], Any]
) -> None:
    command(receiver.url + PATH)
    [failure] = bodies(receiver)[0]["failures"]
    assert failure["url"].endswith(f":{settings().port}/dev")


def test_a_receiver_that_is_not_there_is_told_with_the_reason(
    command: Callable[[str], Any],
) -> None:
    result = command(f"http://127.0.0.1:{free_port()}/secret")
    assert result.exit_code == 1
    assert result.output.startswith("127.0.0.1 cannot be reached: Connection refused; check ")


def test_a_receiver_with_an_unknown_name_is_told_as_such(
    command: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    result = command("http://hooks.invalid/secret")
    assert "hooks.invalid cannot be reached: the name of the host is unknown" in result.output


def test_without_receivers_a_test_alert_says_how_to_add_one(
    command: Callable[[str], Any],
) -> None:
    result = command("")
    assert result.exit_code == 1
    assert "set RUNYARD_ALERTS" in result.output
