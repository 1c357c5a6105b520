"""The caller: a process that executes runs of functions which applications serve, each in a thread.

Such a run waits for an application most of the time, so a process has hundreds of them at a time.
It takes them from a queue of their own, and counts its slots apart from those of the workers'
processes: slow applications take none of those, nor the reverse. It has not loaded the project's
code, and needs no restart when an application registers other functions.

A message is acknowledged when a thread takes the run: from then on the lease guards it.
"""

import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
from dagster import DagsterInstance, DagsterRunStatus
from kombu.connection import Connection
from kombu.messaging import Consumer

from runyard.dagster_adapter import event_log
from runyard.dagster_adapter.broker import (
    REMOTE_QUEUE,
    broker_url,
    celery_settings,
    queue,
)
from runyard.dagster_adapter.execution import execute_in_thread
from runyard.dagster_adapter.internals import (
    ExecuteRunArgs,
    ResumeRunArgs,
    capture_no_output,
    create_log_handlers_once,
    pooled_instance,
    reuse_resource_classes,
    silence_console,
    unpack_value,
)
from runyard.engine import batch_leases
from runyard.engine.backoff import Backoff
from runyard.engine.lease import heartbeat, max_heartbeat_wait
from runyard.errors import DatabaseUnavailable
from runyard.processes.child_process import watch_parent
from runyard.processes.draining import Drain
from runyard.processes.open_files import allow_open_files
from runyard.processes.workers import forget_worker, hand_back, send_heartbeat
from runyard.settings import settings
from runyard.tracing.recording import end_recording

_BEAT_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_LONGEST_WAIT = 5.0
_CONNECTIONS = 10
_log = logging.getLogger("runyard.caller")


def serve_calls(*, of_worker: bool) -> int:
    """Execute runs until told to stop; those in progress then get some time to finish.

    `of_worker` says that a worker has started this process, which then does not outlive it.
    """
    caller = RunsInThreads()
    if of_worker:
        watch_parent(caller.stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: caller.stop())
    allow_open_files()
    heartbeat.of_threads = True
    batch_leases.set_worker_name(f"{caller.name}:{os.getpid()}")
    silence_console()
    reuse_resource_classes()
    with pooled_instance(_CONNECTIONS) as instance, event_log.batching(instance):
        capture_no_output(instance)
        create_log_handlers_once(instance)
        heartbeat.before_stop = lambda run_id: _announce_stop(instance, run_id)
        caller.serve(instance)
    end_recording()
    os._exit(0)  # without waiting for threads whose runs were handed back


class RunsInThreads:
    """Takes runs from the broker while it has a free slot, and executes them.

    Attributes
    ----------
    name
        Its name among the workers.
    """

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._is_over = threading.Event()
        self._slots = settings().remote_concurrency
        self._running = 0
        self._counting = threading.Lock()
        self._drain = Drain(_log, lambda: self._running)
        self._free = threading.Semaphore(self._slots)
        self._threads = ThreadPoolExecutor(self._slots, thread_name_prefix="runyard-call")

    def stop(self) -> None:
        """Let it take no more runs; the second time, those in progress are handed back at once."""
        self._drain.begin()

    def serve(self, instance: DagsterInstance) -> None:
        """Execute runs until told to stop, then finish them or hand them back."""
        self._instance = instance
        threading.Thread(target=self._beat, name="runyard-caller-heartbeat", daemon=True).start()
        backoff = Backoff(_log, "no run is taken from the broker", _LONGEST_WAIT)
        while not self._drain.has_begun:
            try:
                self._consume(backoff)
            except Exception as error:
                self._drain.await_begin(backoff.failed(error))
        finished = self._drain.wait(lambda: not self._running, self._tell_slots)
        self._is_over.set()
        if not finished:
            # Hundreds of threads that all learn at once that their lease is gone would take the
            # time in which their runs are ended.
            heartbeat.end()
            hand_back(self.name)
        event_log.flush()
        forget_worker(self.name)

    def _consume(self, backoff: Backoff) -> None:
        options = celery_settings()["broker_transport_options"]
        with (
            Connection(broker_url(), transport_options=options) as connection,
            connection.channel() as channel,
            Consumer(
                channel,
                [queue(REMOTE_QUEUE)],
                on_message=self._take,
                accept=["json"],
                prefetch_count=1,
            ),
        ):
            backoff.succeeded()
            while not self._drain.has_begun:
                if self._has_free_slot():
                    try:
                        connection.drain_events(timeout=_LOOK_SECONDS)
                    except TimeoutError:
                        continue

    def _has_free_slot(self) -> bool:
        """Wait a little for a free slot: another caller may have one for the next message."""
        is_free = self._free.acquire(timeout=_LOOK_SECONDS)
        if is_free:
            self._free.release()
        return is_free

    def _take(self, message: Any) -> None:
        try:
            run_id = run_id_in(message.payload)
        except Exception as error:
            _log.error("a message names no run, and is dropped: %s", type(error).__name__)
            message.reject()
            return
        self._free.acquire()
        self._count(1)
        try:
            message.ack()
            self._threads.submit(self._execute, run_id)
        except BaseException:  # the broker was lost: it delivers the run again
            self._give_back_slot()
            raise

    def _execute(self, run_id: str) -> None:
        try:
            execute_in_thread(self._instance, run_id)
        except Exception as error:
            _log.exception("run %s: %s", run_id, type(error).__name__)
        finally:
            self._give_back_slot()

    def _give_back_slot(self) -> None:
        self._count(-1)
        self._free.release()

    def _count(self, more: int) -> None:
        with self._counting:
            self._running += more

    def _tell_slots(self, left: int) -> None:
        """Let the daemon launch no more than the other callers can take."""
        with suppress(DatabaseUnavailable, psycopg.Error):  # the heartbeat tells it again
            send_heartbeat(self.name, left, remote=True)

    def _beat(self) -> None:
        """Send this process's heartbeat."""

        def beat() -> None:
            slots = self._running if self._drain.has_begun else self._slots
            send_heartbeat(self.name, slots, remote=True)

        backoff = Backoff(_log, "no heartbeat", max_heartbeat_wait())
        backoff.repeat(beat, _BEAT_SECONDS, self._is_over)


def run_id_in(payload: Any) -> str:
    """The run that a message of dagster-celery's launcher names."""
    _, arguments, _ = payload
    [packed] = arguments.values()
    args = unpack_value(packed)
    assert isinstance(args, ExecuteRunArgs | ResumeRunArgs)
    run_id: str = args.run_id
    return run_id


def _announce_stop(instance: DagsterInstance, run_id: str) -> None:
    """Tell Dagster that a run is about to be interrupted because it was cancelled."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished and run.status != DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run)
