"""The warm workers: a Celery application whose processes have the code loaded before they take a run.

The parent imports the code location and forks; a child keeps one Dagster instance with pooled connections for all its
runs. The task has the name under which dagster-celery's launcher sends runs.
"""

import gc
import logging
import multiprocessing
import os
import signal
import socket
import threading
import warnings
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import psycopg
from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from dagster import DagsterInstance, DagsterRunStatus, Definitions
from dagster_celery.config import TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME

from runyard.dagster_adapter import ops, reaper
from runyard.dagster_adapter.broker import QUEUE, make_app
from runyard.dagster_adapter.hung_steps import end_this_process
from runyard.dagster_adapter.internals import (
    ExecuteRunArgs,
    ResumeRunArgs,
    execute_run,
    pooled_instance,
    refresh_connections,
    silence_console,
    unpack_value,
)
from runyard.dagster_adapter.tags import BATCH, FUNCTION
from runyard.engine import dispatch
from runyard.engine.activity import board
from runyard.engine.backoff import Backoff
from runyard.engine.lease import heartbeat, max_heartbeat_wait
from runyard.engine.step_threads import any_abandoned
from runyard.errors import DatabaseUnavailable
from runyard.functions import registry
from runyard.functions.flow_control import DEFAULT_STEP_TIMEOUT
from runyard.processes.children import Children
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all

_BEAT_SECONDS = 5.0
_WATCH_SECONDS = 1.0
# How long a process of another worker must be silent before it is looked for.
_SILENT_SECONDS = 3.0
_log = logging.getLogger("runyard.worker")
_instance: DagsterInstance | None = None
_resources = ExitStack()
_stopping = threading.Event()
_children = Children()
_parent = os.getpid()  # a child inherits both
_main_process = multiprocessing.current_process()


def name() -> str:
    """This worker's name: its host and the process id of the parent."""
    return f"{socket.gethostname()}:{_parent}"


def load_code() -> Definitions:
    """Import the code location and resolve its jobs, so that no run has to."""
    module = import_module(settings().code)
    definitions = next(value for value in vars(module).values() if isinstance(value, Definitions))
    for job in definitions.get_repository_def().get_all_jobs():
        job.get_job_snapshot_id()
    return definitions


def build_app() -> Celery:
    """The Celery application with the tasks of dagster-celery's launcher."""
    app = make_app()

    @app.task(name=TASK_EXECUTE_JOB_NAME)
    def execute_job(execute_job_args_packed: Any) -> None:
        _execute(unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs).run_id)

    @app.task(name=TASK_RESUME_JOB_NAME)
    def resume_job(resume_job_args_packed: Any) -> None:
        _execute(unpack_value(resume_job_args_packed, as_type=ResumeRunArgs).run_id)

    return app


def work() -> int:
    """Run a worker until it is told to stop; runs under way are finished first."""
    # Celery warns root on every start; the stack may run as root, with a broker that only this project's user can write.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = build_app()
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=prefork",
            f"--concurrency={settings().concurrency}",
            f"--queues={QUEUE}",
            f"--hostname={_parent}@%h",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=WARNING",
        ]
    )
    return 0


@worker_init.connect
def _prepare(**_: Any) -> None:
    load_code()
    database.close_pool()
    # Celery has a signal for this in one of its two pools only.
    os.register_at_fork(before=_children.expect)
    # What is loaded by now is shared with the children for good: the collector shall neither scan nor copy it.
    gc.collect()
    gc.freeze()


@worker_ready.connect
def _come_alive(**_: Any) -> None:
    dispatch.set_worker_name(f"{name()}:{_parent}")  # for what it settles of its children
    # Only now, with the children forked: a thread that holds a lock at a fork leaves it locked in the child for good.
    threading.Thread(target=_beat, name="runyard-worker-heartbeat", daemon=True).start()
    threading.Thread(target=_watch, name="runyard-worker-watch", daemon=True).start()


@worker_shutting_down.connect
def _stop_in_time(**_: Any) -> None:
    threading.Thread(target=_hand_back, name="runyard-worker-stop", daemon=True).start()


@worker_process_init.connect
def _warm_up(**_: Any) -> None:
    # Celery's fork of multiprocessing says that this process is a daemon, which may have no children. Jobs with Dagster's
    # multiprocess executor need some.
    vars(multiprocessing.process)["_current_process"] = _main_process
    heartbeat.parent = os.getppid()
    heartbeat.before_stop = _announce_stop
    dispatch.set_worker_name(f"{name()}:{os.getpid()}")
    silence_console()
    _warm_instance()


@worker_shutdown.connect
def _say_goodbye(**_: Any) -> None:
    _stopping.set()
    try:
        with database.connection() as connection:
            fetch_all(connection, "delete_worker", name=name(), pid=os.getpid())
    except (DatabaseUnavailable, psycopg.Error) as error:
        _log.info("the database does not take the goodbye: %s", type(error).__name__)


def _beat() -> None:
    """Say that this worker is alive, from its parent process."""
    backoff = Backoff(_log, "no heartbeat", max_heartbeat_wait())
    while not _stopping.is_set():
        try:
            with database.connection() as connection:
                fetch_all(
                    connection,
                    "heartbeat_worker",
                    name=name(),
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    slots=settings().concurrency,
                    pid_namespace=_place(),
                )
        except Exception as error:
            _stopping.wait(backoff.failed(error))
        else:
            backoff.succeeded()
            _stopping.wait(_BEAT_SECONDS)


def _watch() -> None:
    """Look after the children, and free what dead processes of this place held.

    A child of this worker is noticed at once, those of a worker that was killed when they are silent.
    """
    backoff = Backoff(_log, "cannot look after processes", max_heartbeat_wait())
    while not _stopping.wait(_WATCH_SECONDS):
        try:
            _children.look_after()
            free_dead()
        except Exception as error:
            _stopping.wait(backoff.failed(error))
        else:
            backoff.succeeded()


def free_dead() -> None:
    """Free the batches of processes of this place that are no more, and end their runs."""
    with database.connection() as connection:
        here = fetch_all(
            connection,
            "batches_on_host",
            name=name(),
            pid_namespace=_place(),
            silent=_SILENT_SECONDS,
        )
    here = [batch for batch in here if batch["id"] not in _children.accounted_for]
    dead = [batch for batch in here if not _is_alive(int(batch["worker"].rsplit(":", 1)[1]))]
    if dead:
        _log.warning(
            "lost before the end of their runs: %s", ", ".join(batch["worker"] for batch in dead)
        )
        with DagsterInstance.get() as instance:
            reaper.free(
                instance, [batch for batch in dead if batch["status"] == "running"], force=True
            )
            reaper.end_runs(instance, [batch for batch in dead if batch["status"] == "finished"])


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@cache
def _place() -> str:
    """Where process ids are the same as here: this boot of the machine, and the PID namespace (on Linux; else the host)."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _hand_back() -> None:
    """Hand back the runs that have not ended in time, before they are killed in the middle."""
    if not _stopping.wait(settings().stop_seconds):
        try:
            hand_back()
        except Exception as error:
            _log.warning(
                "runs are not handed back (%s): they are taken up when their lease is over",
                type(error).__name__,
            )
        _children.kill_working()  # lest a step that does not end keeps the worker


def hand_back() -> None:
    """Give back what this worker is doing, for another to go on with; no attempt is counted. Its own runs can keep nothing any more."""
    with database.connection() as connection:
        runs = [row["run_id"] for row in fetch_all(connection, "hand_back", name=name())]
    if runs:
        with DagsterInstance.get() as instance:
            for found in [instance.get_run_by_id(run_id) for run_id in runs]:
                if found is not None and not found.is_finished:
                    instance.report_run_failed(
                        found,
                        "The worker was stopped. Another run goes on with its events; kept steps are not repeated.",
                    )


def _warm_instance() -> DagsterInstance:
    """This process's Dagster instance, made at the first call, with living connections."""
    global _instance
    if _instance is None:
        _instance = _resources.enter_context(pooled_instance())
    refresh_connections(_instance)
    return _instance


def _announce_stop(run_id: str) -> None:
    """Tell Dagster that a run is about to be interrupted because it was cancelled."""
    instance = _warm_instance()
    found = instance.get_run_by_id(run_id)
    if found is not None and not found.is_finished and found.status != DagsterRunStatus.CANCELING:
        instance.report_run_canceling(found)


def _execute(run_id: str) -> None:
    """Execute a run that the broker handed over; one that was begun or cancelled meanwhile is left alone."""
    instance = _warm_instance()
    found = instance.get_run_by_id(run_id)
    if found is None or found.status not in (
        DagsterRunStatus.NOT_STARTED,
        DagsterRunStatus.QUEUED,
        DagsterRunStatus.STARTING,
    ):
        _log.warning("run %s is %s: not executed", run_id, found.status.value if found else "gone")
        if found is not None and found.status == DagsterRunStatus.CANCELED:
            reaper.settle_orphaned(instance, run_id)
        return
    handler = signal.getsignal(signal.SIGINT)
    batch_id = found.tags.get(BATCH) if found.parent_run_id is None else None
    function = registry.find(found.tags.get(FUNCTION, ""))
    try:
        if batch_id is not None:
            # Resources are made before the batch is begun: the parent renews its lease meanwhile.
            board().start_run(
                batch_id,
                run_id,
                DEFAULT_STEP_TIMEOUT if function is None else function.flow.step_timeout,
            )
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ended_well = execute_run(instance, run_id)
    except KeyboardInterrupt:
        ended_well = False
    finally:
        signal.signal(signal.SIGINT, handler)
        ops.abandon(run_id)
        if batch_id is not None:
            board().drop(batch_id)
    if not ended_well:
        reaper.settle_orphaned(instance, run_id)
    try:
        dispatch.mark_ended(run_id)
    except (DatabaseUnavailable, psycopg.Error) as error:
        _log.info("the end of run %s is not written down: %s", run_id, type(error).__name__)
    if any_abandoned():
        _log.error("threads of run %s do not end: their process does", run_id)
        end_this_process()
