"""Functions of applications: their code location, and the processes that execute their runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from kombu.message import Message

from runyard import Event, send
from runyard.apps import catalog
from runyard.dagster_adapter.apps_location import AppsRepository, apps
from runyard.dagster_adapter.apps_workspace import AppsTarget
from runyard.dagster_adapter.internals import (
    ExecuteRunArgs,
    WorkspaceFileTarget,
    WorkspaceProcessContext,
    function_sensors,
    pack_value,
)
from runyard.dagster_adapter.sensor_loop import SensorLoop
from runyard.dagster_adapter.tags import APP
from runyard.engine.batch_claims import capacities
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.functions.registry import Function
from runyard.processes import workers
from runyard.processes.caller import RunsInThreads
from runyard.processes.checks import checks
from runyard.processes.child_process import ChildProcess
from runyard.processes.stack_files import socket_path
from runyard.settings import settings
from runyard.store import database
from tests.code_server import loaded_code
from tests.conftest import ROOT, Publish, event, settled, wait_until
from tests.remote_app import RemoteApp, served_app
from tests.tables import rows

MODULE = "runyard.dagster_adapter.apps_location"
Context = WorkspaceProcessContext


@pytest.fixture
def shop(empty: None) -> Iterator[RemoteApp]:
    """An application with a function on `shop/ship` and one on `shop/bill` daily."""
    with served_app("shop") as app:
        app.register("ship", "bill", crons={"bill": "TZ=Europe/Paris 30 6 * * *"})
        yield app


@pytest.fixture
def context(shop: RemoteApp) -> Iterator[Context]:
    """The application's functions as the daemon has loaded them."""
    for message in (settings().broker_dir / "queue").glob("*.msg"):
        message.unlink()
    with loaded_code(MODULE) as loaded:
        for run in loaded.instance.get_runs():
            loaded.instance.delete_run(run.run_id)
        yield loaded


@contextmanager
def calling(slots: int = 20) -> Iterator[subprocess.Popen[bytes]]:
    """Run a caller; gives its process once it is alive."""
    environment = {
        **os.environ,
        "RUNYARD_REMOTE_CONCURRENCY": str(slots),
        "RUNYARD_DRAIN_TIMEOUT": "0.2",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "runyard", "caller"], env=environment, cwd=ROOT
    )
    try:
        wait_until(lambda: rows(f"SELECT 1 FROM runyard.workers WHERE pid = {process.pid}"))
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def launch(context: Context, *names: str) -> list[str]:
    """Send an event of each name, and launch their runs; returns the events' ids."""
    ids = send([Event(name, {"n": number}) for number, name in enumerate(names)])
    loop = SensorLoop(context)
    while loop.evaluate_due() == 0:
        pass
    return ids


def run_of(context: Context, event_id: str) -> DagsterRun:
    [invocation] = event(event_id)["invocations"]
    run = context.instance.get_run_by_id(invocation["run_id"])
    assert run is not None
    return run


def has_ended(context: Context, event_id: str, status: DagsterRunStatus) -> bool:
    return run_of(context, event_id).status == status


def began(event_id: str) -> bool:
    [invocation] = event(event_id)["invocations"]
    return invocation["status"] == "running"


def test_each_function_is_a_job_of_its_own(shop: RemoteApp) -> None:
    assert sorted(AppsRepository().get_job_names()) == ["shop_bill", "shop_ship"]


def test_a_job_says_what_it_calls_and_no_secret(shop: RemoteApp) -> None:
    [bill, _] = AppsRepository().get_all_jobs()
    assert bill.description is not None
    assert "The bill: shop-bill of the application shop" in bill.description
    assert "secret" not in bill.description


def test_a_function_has_the_schedule_that_it_was_registered_with(shop: RemoteApp) -> None:
    [schedule] = AppsRepository().get_all_schedules()
    assert (schedule.name, schedule.cron_schedule) == ("shop_bill_schedule", "30 6 * * *")
    assert schedule.execution_timezone == "Europe/Paris"


def test_a_function_that_is_registered_no_longer_is_no_job(shop: RemoteApp) -> None:
    shop.register("ship")
    assert AppsRepository().get_job_names() == ["shop_ship"]


def test_what_a_function_has_left_is_run_when_it_is_registered_no_longer(shop: RemoteApp) -> None:
    [begun] = send("shop/bill")
    shop.register("ship")
    with loaded_code(MODULE) as context, calling():
        [late] = send("shop/bill")
        assert launch(context, "shop/ship")
        assert settled(begun)["status"] == "succeeded"
    assert event(late)["invocations"] == []


def test_a_function_that_is_registered_no_longer_has_a_job_but_no_schedule_until_its_runs_end(
    shop: RemoteApp,
) -> None:
    send("shop/bill")
    shop.register("ship")
    location = AppsRepository()
    assert sorted(location.get_job_names()) == ["shop_bill", "shop_ship"]
    assert location.get_all_schedules() == []
    assert catalog.has_functions()
    rows("UPDATE runyard.invocations SET status = 'cancelled' RETURNING id")
    assert AppsRepository().get_job_names() == ["shop_ship"]


def test_a_run_of_a_function_that_was_registered_later_can_be_executed(shop: RemoteApp) -> None:
    assert [node.name for node in apps.get_job("registered_later").nodes] != []


def test_a_run_is_executed_by_a_caller(context: Context) -> None:
    with calling():
        [event_id] = launch(context, "shop/ship")
        assert settled(event_id)["output"] == {"n": 0}
        wait_until(lambda: has_ended(context, event_id, DagsterRunStatus.SUCCESS))
    assert run_of(context, event_id).tags[APP] == "shop"


def test_an_invoked_function_is_told_who_has_invoked_it(shop: RemoteApp, context: Context) -> None:
    shop.invokes["shop-ship"] = "shop-bill"
    with calling():
        launch(context, "shop/ship")
        [row] = wait_until(
            lambda: rows("SELECT data FROM runyard.events WHERE target = 'shop_bill'")
        )
    told = row["data"].pop("_inngest")
    assert row["data"] == {"n": 0}
    assert (told["fn_id"], told["source_app_id"], told["source_fn_id"]) == (
        "shop-bill",
        "shop",
        "shop-ship",
    )


def test_many_runs_wait_for_an_application_at_a_time(shop: RemoteApp, context: Context) -> None:
    shop.open.clear()
    with calling(slots=2):
        ids = launch(context, "shop/ship", "shop/bill")
        wait_until(lambda: len(shop.calls) == 2)
        shop.open.set()
        assert {settled(each)["status"] for each in ids} == {"succeeded"}


def test_runs_of_applications_leave_the_slots_of_other_functions_free(
    shop: RemoteApp, context: Context
) -> None:
    shop.open.clear()
    rows(
        "INSERT INTO runyard.workers (name, host, pid, slots) VALUES ('w', 'h', 1, 3)"
        " RETURNING name"
    )
    with calling(slots=1):
        launch(context, "shop/ship")
        wait_until(lambda: shop.calls)
        with database.connection() as connection:
            present = capacities(connection)
        shop.open.set()
    assert (present.local.running, present.local.slots, present.remote.running) == (0, 3, 1)


def test_a_batch_waits_for_a_caller_and_is_not_overdue_by_the_slots_of_workers(
    shop: RemoteApp, function: Function, publish_functions: Publish
) -> None:
    rows(
        "INSERT INTO runyard.workers (name, host, pid, slots, remote)"
        " VALUES ('w', 'h', 1, 3, false), ('c', 'h', 2, 1, true) RETURNING name"
    )
    rows(
        "INSERT INTO runyard.batches (id, function, invocations, status, launched_at, heartbeat_at)"
        " VALUES ('a', 'shop_ship', '{1}', 'running', now(), now()), ('b', 'shop_bill', '{2}',"
        " 'claimed', now() - interval '1 day', now() - interval '1 day'), ('c', 'greet', '{3}',"
        " 'claimed', now() - interval '1 day', now() - interval '1 day') RETURNING id"
    )
    overdue = workers.batch_leases.overdue()
    assert [row["id"] for row in overdue] == ["c"]


def test_a_cancelled_run_ends_while_others_go_on(shop: RemoteApp, context: Context) -> None:
    shop.open.clear()
    with calling():
        stopped, kept = launch(context, "shop/ship", "shop/bill")
        wait_until(lambda: len(shop.calls) == 2)
        assert context.instance.run_launcher.terminate(run_of(context, stopped).run_id)
        wait_until(lambda: has_ended(context, stopped, DagsterRunStatus.CANCELED))
        assert began(kept)
        shop.open.set()
        assert settled(kept)["status"] == "succeeded"
    assert settled(stopped)["status"] == "cancelled"


@pytest.fixture
def cancelled(shop: RemoteApp, context: Context) -> Iterator[tuple[str, str, float]]:
    """Events of a cancelled invocation and of another one whose calls are open, in one caller.

    The third is how long it took until the invocation had ended.
    """
    shop.register("ship", "bill", "told", events={"told": "inngest/function.cancelled"})
    shop.open.clear()
    with calling(slots=2):
        ended, kept = launch(context, "shop/ship", "shop/bill")
        wait_until(lambda: len(shop.calls) == 2)
        began_at = time.monotonic()
        [invocation] = event(ended)["invocations"]
        assert cancel(Selection(invocations=(invocation["id"],))) == 1
        wait_until(lambda: event(ended)["invocations"][0]["status"] == "cancelled")
        yield ended, kept, time.monotonic() - began_at
        shop.open.set()
        assert settled(kept)["status"] == "succeeded"


def test_a_run_ends_whose_only_invocation_is_cancelled_in_an_open_call(
    context: Context, cancelled: tuple[str, str, float]
) -> None:
    ended, _, seconds = cancelled
    assert seconds < 5
    wait_until(lambda: has_ended(context, ended, DagsterRunStatus.CANCELED))


def test_the_slot_of_a_cancelled_call_is_free_while_the_others_go_on(
    shop: RemoteApp, context: Context, cancelled: tuple[str, str, float]
) -> None:
    _, kept, _ = cancelled
    launch(context, "shop/ship")
    wait_until(lambda: len(shop.calls) == 3)
    assert began(kept)


def test_a_cancelled_call_is_told_of_and_its_late_answer_is_ignored(
    shop: RemoteApp, context: Context, cancelled: tuple[str, str, float]
) -> None:
    ended, kept, _ = cancelled
    [told] = wait_until(
        lambda: rows("SELECT data FROM runyard.events WHERE name = 'inngest/function.cancelled'")
    )
    assert told["data"]["event"]["id"] == ended
    shop.open.set()
    assert settled(kept)["status"] == "succeeded"
    [invocation] = event(ended)["invocations"]
    assert (invocation["status"], invocation["steps"]) == ("cancelled", [])


def test_what_a_killed_caller_had_is_due_again(shop: RemoteApp, context: Context) -> None:
    shop.open.clear()
    with calling() as process:
        [event_id] = launch(context, "shop/ship")
        wait_until(lambda: shop.calls)
        process.kill()
        process.wait()
        rows("UPDATE runyard.batches SET heartbeat_at = now() - interval '5 s' RETURNING id")
        workers.reap_dead()
    [invocation] = event(event_id)["invocations"]
    assert invocation["status"] == "queued"


def test_a_caller_that_is_stopped_hands_back_what_goes_on(
    shop: RemoteApp, context: Context
) -> None:
    shop.open.clear()
    with calling() as process:
        [event_id] = launch(context, "shop/ship")
        wait_until(lambda: shop.calls)
        process.terminate()
        assert process.wait(20) == 0
    assert has_ended(context, event_id, DagsterRunStatus.FAILURE)
    [invocation] = event(event_id)["invocations"]
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)


class LostChannel:
    """A channel whose connection is lost once a message is delivered."""

    no_ack_consumers: frozenset[str] = frozenset()
    rejected = 0

    def basic_ack(self, tag: str, multiple: bool = False) -> None:
        raise ConnectionError("the broker is gone")

    def basic_reject(self, tag: str, requeue: bool) -> None:
        self.rejected += 1


def message(channel: LostChannel, **arguments: object) -> Message:
    """A message as it was delivered."""
    body = json.dumps([[], arguments, {}])
    return Message(
        body, "tag", "application/json", "utf-8", channel=channel, accept={"application/json"}
    )


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> RunsInThreads:
    """A caller with one slot, which nothing is delivered to but by the test."""
    monkeypatch.setattr(settings(), "remote_concurrency", 1)
    return RunsInThreads()


def test_a_run_that_cannot_be_acknowledged_takes_no_slot(caller: RunsInThreads) -> None:
    origin = JobPythonOrigin(
        "job", RepositoryPythonOrigin("python", ModuleCodePointer("shop", "jobs", None))
    )
    arguments = pack_value(ExecuteRunArgs(origin, "run-1", None))
    with pytest.raises(ConnectionError):
        caller._take(message(LostChannel(), execute_job_args_packed=arguments))
    assert caller._has_free_slot()
    assert caller._running == 0


def test_a_message_that_names_no_run_is_dropped_and_takes_no_slot(caller: RunsInThreads) -> None:
    channel = LostChannel()
    caller._take(message(channel, execute_job_args_packed="nonsense"))
    assert channel.rejected == 1
    assert caller._has_free_slot()
    assert caller._running == 0


def test_a_worker_starts_a_caller_that_does_not_outlive_it(store_url: str) -> None:
    caller = ChildProcess("caller", "caller", "--of-worker")
    caller.keep_running()
    try:
        wait_until(lambda: rows("SELECT 1 FROM runyard.workers WHERE remote"))
    finally:
        caller.stop()
        caller.wait()
    assert rows("SELECT 1 FROM runyard.workers WHERE remote") == []


# What a daemon does that runs by itself.
_ALONE = """
import threading
from runyard.processes.apps_server import start_when_needed

start_when_needed(lambda: False)
threading.Event().wait()
"""


def is_listening() -> bool:
    """Whether the code server of applications answers."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(socket_path("apps")))
        return True
    return False


def test_where_no_stack_runs_the_functions_are_served_as_long_as_there_is_a_daemon(
    shop: RemoteApp,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    daemon = subprocess.Popen([sys.executable, "-c", _ALONE], env=environment, cwd=ROOT)
    try:
        wait_until(is_listening)
    finally:
        daemon.kill()
        daemon.wait()
    wait_until(lambda: not is_listening())


def test_a_code_server_in_the_background_of_a_shell_ends_when_it_is_told_to(
    shop: RemoteApp,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m runyard code-server --apps & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", command], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        try:
            wait_until(is_listening)
            os.kill(pid, signal.SIGTERM)
            assert shell.wait(20) == 0
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_code_server_that_is_told_to_end_before_it_serves_says_nothing(shop: RemoteApp) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "runyard", "code-server", "--apps"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        wait_until(lambda: catches(server.pid, signal.SIGTERM) or server.poll() is not None)
        assert server.returncode is None

        def has_ended_when_told() -> bool:
            server.terminate()  # gRPC may lose the first interrupt while it starts
            return server.poll() is not None

        wait_until(has_ended_when_told)
        assert server.communicate()[0] == ""
    assert server.returncode == 0


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << number - 1)


def test_the_location_appears_with_its_server_and_follows_registrations(
    shop: RemoteApp, context: Context, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: []")
    target = AppsTarget(WorkspaceFileTarget(paths=[str(workspace)]), socket_path("apps"))
    with WorkspaceProcessContext(context.instance, target) as followed:
        target.follow(followed)
        assert list(followed.code_location_names) == []
        server = subprocess.Popen(
            [sys.executable, "-m", "runyard", "code-server", "--apps"], cwd=ROOT
        )
        try:
            wait_until(lambda: names(followed) == ["shop_bill", "shop_ship"])
            shop.register("ship", "pack")
            wait_until(lambda: names(followed) == ["shop_pack", "shop_ship"])
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()


def names(context: Context) -> list[str]:
    """The functions that have a sensor in the loaded code."""
    return sorted(name for sensor in function_sensors(context) for name in sensor.functions)


def test_the_doctor_tells_workers_and_callers_apart(shop: RemoteApp) -> None:
    rows(
        "INSERT INTO runyard.workers (name, host, pid, slots, remote)"
        " VALUES ('w', 'h', 1, 3, false), ('c', 'h', 2, 200, true) RETURNING name"
    )
    [check] = [each for each in checks() if each.name == "workers"]
    assert check.says == "1 alive, 3 runs at a time; 200 of functions of applications"
