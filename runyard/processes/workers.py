"""The warm workers: a Celery application whose processes have loaded the code before they run it.

The parent process imports the code location and forks; a child keeps one Dagster instance with
pooled connections for all its runs. The task has the name under which dagster-celery's launcher
sends runs.
"""

import gc
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import psycopg
from celery import Celery
from celery.app.defaults import DEFAULT_PROCESS_LOG_FMT
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.utils.log import get_multiprocessing_logger
from dagster import DagsterInstance, DagsterRunStatus
from dagster_celery.config import TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME
from sqlalchemy.exc import OperationalError

from runyard.dagster_adapter import event_log, reaper
from runyard.dagster_adapter.broker import QUEUE, make_app
from runyard.dagster_adapter.execution import execute
from runyard.dagster_adapter.internals import (
    ExecuteRunArgs,
    ResumeRunArgs,
    copy_no_output,
    pooled_instance,
    reuse_resource_classes,
    silence_console,
    unpack_value,
)
from runyard.dagster_adapter.storage_place import check_storage
from runyard.engine import batch_leases, output_files
from runyard.engine.backoff import Backoff
from runyard.engine.lease import heartbeat, max_heartbeat_wait
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.processes.child_process import ChildProcess
from runyard.processes.children import Children
from runyard.processes.code_location import load_code, problem_of
from runyard.processes.draining import Drain
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one
from runyard.text.json_lines import json_line
from runyard.text.line_buffering import line_buffered
from runyard.text.process_output import show_in_output
from runyard.tracing import recording

_BEAT_SECONDS = 5.0
_WATCH_SECONDS = 1.0
_LEFT_BEHIND_SECONDS = 10.0
# How long a worker whose code does not load waits before it ends.
_BAD_CODE_SECONDS = 3.0
# How long a process of another worker must be silent before this worker checks on it.
_SILENT_SECONDS = 3.0
_STOPPED = (
    "The worker was stopped. Another run continues with its events; completed steps are not re-run."
)
_log = logging.getLogger("runyard.worker")
_instance: DagsterInstance | None = None
_resources = ExitStack()
_stopping = threading.Event()
_children = Children()
_caller = ChildProcess("caller", "caller", "--of-worker")
_drain = Drain(_log, lambda: _children.working)
_parent = os.getpid()  # a child inherits both
_main_process = multiprocessing.current_process()


def name() -> str:
    """This worker's name: its host and the process id of the parent."""
    return f"{socket.gethostname()}:{_parent}"


def build_app() -> Celery:
    """The Celery application with the tasks of dagster-celery's launcher."""
    app = make_app()

    @app.task(name=TASK_EXECUTE_JOB_NAME)
    def execute_job(execute_job_args_packed: Any) -> None:
        args = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
        execute(_warm_instance(), args.run_id)

    @app.task(name=TASK_RESUME_JOB_NAME)
    def resume_job(resume_job_args_packed: Any) -> None:
        args = unpack_value(resume_job_args_packed, as_type=ResumeRunArgs)
        execute(_warm_instance(), args.run_id)

    return app


def work() -> int:
    """Run a worker until it is told to stop; runs in progress then get some time to finish.

    Raises `RunyardError` when the code does not load: every run would fail; or when Dagster's
    storage is not in the database of DATABASE_URL: no run would be found.
    """
    _load_or_explain()
    _check_storage()
    # Celery warns on every start as root. The stack may run as root, with a broker that only this
    # project's user can write to.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if settings().log_format == "json":
        vars(celery_worker)["safe_say"] = _say_as_json
        setup_logging.connect(_keep_own_loggers)
    else:
        show_in_output(logging.getLogger("runyard"), logging.Formatter(DEFAULT_PROCESS_LOG_FMT))
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


def _say_as_json(message: str, *_: object) -> None:
    """What Celery says of its shutdown, in a signal handler: without the locks of streams."""
    os.write(2, f"{json_line('celery', message.strip())}\n".encode())


def _keep_own_loggers(**_: Any) -> None:
    """Let Celery log as this process has set up its loggers: it does when this is connected."""
    get_multiprocessing_logger().propagate = True


def _load_or_explain() -> None:
    """Load the code; raise `RunyardError` in one line when it does not load."""
    try:
        load_code()
    except Exception as error:
        # Whatever restarts this worker need not do so at once: the code has to change first.
        time.sleep(_BAD_CODE_SECONDS)
        raise RunyardError(f"the code does not load: {problem_of(error)}") from None


def _check_storage() -> None:
    """Raise `RunyardError` when Dagster's storage is elsewhere; without a database, do nothing."""
    with suppress(DatabaseUnavailable, OperationalError), DagsterInstance.get() as instance:
        check_storage(instance)


@worker_init.connect
def _prepare(**_: Any) -> None:
    database.close_pool()
    # Only one of Celery's two pools has a signal for this.
    os.register_at_fork(before=_children.expect)
    recording.load()
    # What is loaded by now stays shared with the children: keep the garbage collector from
    # scanning it, which would copy it.
    gc.collect()
    gc.freeze()


@worker_ready.connect
def _start_threads(sender: Any, **_: Any) -> None:
    _children.kill_with(sender.pool.terminate_job)
    # The parent settles the invocations of killed children under this name.
    batch_leases.set_worker_name(f"{name()}:{_parent}")
    # Started only after the children are forked: a lock that a thread holds during a fork stays
    # locked in the child for ever.
    for target, thread in ((_beat, "heartbeat"), (_watch, "watch")):
        threading.Thread(target=target, name=f"runyard-worker-{thread}", daemon=True).start()


@worker_shutting_down.connect
def _stop_in_time(**_: Any) -> None:
    _caller.stop()
    if _drain.begin():
        threading.Thread(target=_finish_or_hand_back, name="runyard-worker-stop").start()


@worker_process_init.connect
def _warm_up(**_: Any) -> None:
    # Celery's fork of multiprocessing marks this process as a daemon, which may not have children;
    # jobs with Dagster's multiprocess executor need some.
    vars(multiprocessing.process)["_current_process"] = _main_process
    heartbeat.parent = os.getppid()
    heartbeat.before_stop = _announce_stop
    batch_leases.set_worker_name(f"{name()}:{os.getpid()}")
    silence_console()
    # What a run prints is in order whichever log manager keeps it.
    for stream in (sys.stdout, sys.stderr):
        _resources.enter_context(line_buffered(stream))
    copy_no_output()
    reuse_resource_classes()
    _warm_instance()


@worker_process_shutdown.connect
def _end_log(**_: Any) -> None:
    event_log.flush()
    recording.end_recording()


@worker_shutdown.connect
def _sign_off(**_: Any) -> None:
    _stopping.set()
    _caller.wait()
    forget_worker(name())


def send_heartbeat(worker: str, slots: int, *, remote: bool) -> bool:
    """Tell the database that this process is alive; return whether there are applications.

    `remote` says that it executes the functions of applications, not those of the code.
    """
    with database.connection() as connection:
        row = fetch_one(
            connection,
            "heartbeat_worker",
            name=worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            slots=slots,
            pid_namespace=place(),
            remote=remote,
        )
    return row is not None and bool(row["has_apps"])


def retry_launches() -> None:
    """Let functions whose launches fail be launched again at once: this worker may have their code.

    During a deploy, those that are new reach workers first that do not have them yet.
    """
    with database.connection() as connection:
        fetch_all(connection, "retry_launches")


def forget_worker(worker: str) -> None:
    """Delete this process, which stops in order, from the workers in the database."""
    try:
        with database.connection() as connection:
            fetch_all(connection, "delete_worker", name=worker, pid=os.getpid())
    except (DatabaseUnavailable, psycopg.Error) as error:
        _log.info("this process is not deleted from the database: %s", type(error).__name__)


def _beat() -> None:
    """Send this worker's heartbeat from its parent process."""
    is_known = False

    def beat() -> None:
        nonlocal is_known
        if send_heartbeat(name(), _slots(), remote=False):
            _caller.keep_running()
        if not is_known:
            retry_launches()
            is_known = True

    backoff = Backoff(_log, "no heartbeat", max_heartbeat_wait())
    backoff.repeat(beat, _BEAT_SECONDS, _stopping)


def _slots() -> int:
    """How many runs this worker executes at a time; while it drains, no more than are left."""
    return _children.working if _drain.has_begun else settings().concurrency


def _watch() -> None:
    """Supervise the children, and reap what dead processes of this place held.

    A dead child of this worker is noticed at once; children of a worker that was killed are
    noticed when they have been silent for a few seconds. What their runs have printed is stored.
    """
    backoff = Backoff(_log, "cannot supervise the processes", max_heartbeat_wait())
    looked = -_LEFT_BEHIND_SECONDS
    while not _stopping.wait(_WATCH_SECONDS):
        try:
            _children.supervise()
            reap_dead()
            if time.monotonic() - looked >= _LEFT_BEHIND_SECONDS:
                looked = time.monotonic()
                output_files.save_left_behind()
        except Exception as error:
            _stopping.wait(backoff.failed(error))
        else:
            backoff.succeeded()


def reap_dead() -> None:
    """Release the batches of processes of this place that no longer exist, and end their runs."""
    with database.connection() as connection:
        batches = fetch_all(
            connection,
            "batches_on_host",
            name=name(),
            pid_namespace=place(),
            silent=_SILENT_SECONDS,
        )
    dead = [
        batch
        for batch in batches
        if batch["id"] not in _children.unsettled and not _is_alive(_pid_of(batch["worker"]))
    ]
    if dead:
        workers = ", ".join(batch["worker"] for batch in dead)
        _log.warning("processes lost before their runs ended: %s", workers)
        with DagsterInstance.get() as instance:
            reaper.reap_lost(instance, dead)


def _pid_of(worker: str) -> int:
    """The process id in the name under which a process began a batch."""
    return int(worker.rsplit(":", 1)[1])


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@cache
def place() -> str:
    """Names the place in which a process id means the same process as here.

    On Linux that is this boot of the machine and the PID namespace; elsewhere it is the host.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _finish_or_hand_back() -> None:
    """Let runs in progress finish, and hand back those that have not ended in time."""
    if _drain.wait(_stopping.is_set, _tell_slots):
        return
    try:
        hand_back(name(), _children.kill_working)
    except Exception as error:
        _log.warning(
            "runs are not handed back (%s): other workers take them when their leases expire",
            type(error).__name__,
        )
    _children.kill_working()  # a step that never ends must not keep the worker alive


def _tell_slots(left: int) -> None:
    """Let the daemon launch no more than the other workers can take."""
    with suppress(DatabaseUnavailable, psycopg.Error):  # the heartbeat tells it again
        send_heartbeat(name(), left, remote=False)


def hand_back(worker: str, stop_working: Callable[[], object] = lambda: None) -> None:
    """Return what a worker of this name is doing to the queue, which counts no attempt.

    From then on its own runs can no longer write anything. `stop_working` is called next, before
    another worker can have begun on them.
    """
    run_ids = batch_leases.hand_back(worker)
    stop_working()
    if not run_ids:
        return
    runs = "1 run" if len(run_ids) == 1 else f"{len(run_ids)} runs"
    _log.warning("handed back %s: another worker continues with the invocations", runs)
    # A caller has hundreds of runs, and little time before it is killed.
    with pooled_instance() as instance:
        for run_id in run_ids:
            reaper.fail_run(instance, run_id, _STOPPED)


def _warm_instance() -> DagsterInstance:
    """This process's Dagster instance, created at the first call, with live connections."""
    global _instance
    if _instance is None:
        _instance = _resources.enter_context(pooled_instance())
        _resources.enter_context(event_log.batching(_instance))
    return _instance


def _announce_stop(run_id: str) -> None:
    """Tell Dagster that a run is about to be interrupted because it was cancelled."""
    instance = _warm_instance()
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished and run.status != DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run)
