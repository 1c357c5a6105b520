"""The broker between daemon and workers: files by default, Redis or RabbitMQ by URL.

Kombu's filesystem transport makes a message visible under its final name while it is still being
written, so a worker may read half of it. Ours writes it under another name and renames it, which
is atomic.

RabbitMQ closes the channel of a consumer that has not acknowledged a message within 30 minutes,
which ends Celery's worker. A run may take hours, so with RabbitMQ a message is acknowledged when a
worker process has accepted it; from then on the lease guards the run. When a worker is killed,
RabbitMQ redelivers its unacknowledged messages at once; runs that it had acknowledged come back
when their lease expires.
"""

import os
import uuid
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any, Literal

from celery import Celery, bootsteps
from celery.worker import request as celery_request
from celery.worker import state
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from runyard.engine.batch_claims import ANSWER_SECONDS
from runyard.errors import RunyardError
from runyard.settings import settings
from runyard.store.data_folder import make_folder

QUEUE = "dagster"
# That of the runs of functions that applications serve.
REMOTE_QUEUE = "runyard-apps"
_POLL_SECONDS = 0.02
_SCHEME = "runyardfiles"


class Channel(filesystem.Channel):
    """Kombu's filesystem channel, with messages that appear complete."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # its two bases disagree
        name = f"{monotonic() * 1000:016.3f}_{uuid.uuid4()}"
        unfinished = os.path.join(self.data_folder_out, f"{name}.writing")
        with open(unfinished, "wb") as file:
            file.write(str_to_bytes(dumps(payload)))
        message = os.path.join(self.data_folder_out, f"{name.replace('.', '-')}.{queue}.msg")
        os.rename(unfinished, message)


class Transport(filesystem.Transport):
    """Kombu's filesystem transport with our channel, run by Celery's event loop.

    Without that loop Celery's processes share one pipe and its lock: a process that is killed while
    it waits for work keeps the lock, and no other process gets any work from then on.
    """

    Channel = Channel
    implements = filesystem.Transport.implements.extend(asynchronous=True)

    def register_with_event_loop(self, _: Any, loop: Any) -> None:
        """Look for messages every 20 ms."""
        loop.call_repeatedly(_POLL_SECONDS, self._take_all)

    def _take_all(self) -> None:
        with suppress(Empty):
            while True:
                self.cycle.get(self._deliver)  # type: ignore[union-attr]  # None only after the end


TRANSPORT_ALIASES[_SCHEME] = "runyard.dagster_adapter.broker:Transport"


def broker_url() -> str:
    """The URL of the broker; for the default one, its folders are created."""
    url = settings().broker_url
    if url is not None:
        return url.get_secret_value()
    make_folder(settings().broker_dir / "queue")
    make_folder(settings().broker_dir / "control")
    return f"{_SCHEME}://localhost/"


def is_rabbitmq() -> bool:
    """Whether the broker is RabbitMQ, or another one that speaks AMQP."""
    return broker_url().startswith(("amqp", "pyamqp"))


def queue(name: str = QUEUE) -> Queue:
    """A queue of runs.

    RabbitMQ refuses a declaration with other arguments than the first; these are dagster-celery's.
    """
    return Queue(name, Exchange(""), routing_key=name, queue_arguments={"x-max-priority": 10})


def celery_settings() -> dict[str, Any]:
    """The settings that launcher and workers share."""
    return {
        "broker_transport_options": _transport_options(),
        "broker_connection_retry_on_startup": True,
        # A channel that the broker closes is reopened; Celery would end the worker.
        "broker_channel_error_retry": True,
        "task_default_queue": QUEUE,
        "task_queues": [queue()],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # A worker takes only messages that it can start at once: another worker may be idle.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        # A process that is gone gives no late result: its message is done, and its slot is free.
        "worker_lost_wait": 1.0,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _transport_options() -> dict[str, Any]:
    if settings().broker_url is None:
        folder = settings().broker_dir
        return {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
            "polling_interval": _POLL_SECONDS,
        }
    if is_rabbitmq():
        # A launch succeeds only when RabbitMQ has the message.
        return {"confirm_publish": True}
    return {"visibility_timeout": 7 * 86_400}


class _EarlyAcknowledgedRequest(celery_request.Request):
    """A task whose message is acknowledged when a process accepts it, not when it is done.

    Celery acknowledges it a second time at the end, when the worker only checks its slots again.
    """

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        self.acknowledge()

    def acknowledge(self) -> None:
        _intake.stop_when_full()
        super().acknowledge()
        _intake.resume_when_free()


class _Intake(bootsteps.StartStopStep):
    """Consumes messages of RabbitMQ only while the worker has a free slot.

    One message at a time is in delivery: the next one comes when it is acknowledged. A message that
    arrives with a new connection while all slots are busy waits for a slot.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        global _intake
        super().__init__(consumer)
        self._worker = consumer
        consumer.initial_prefetch_count = 1
        _intake = self

    def stop_when_full(self) -> None:
        """Stop consuming when all slots are busy."""
        if self._is_full():
            self._tell_consumer("cancel")

    def resume_when_free(self) -> None:
        """Consume again when a slot is free."""
        if not self._is_full():
            self._tell_consumer("consume")

    def _is_full(self) -> bool:
        return len(state.reserved_requests) >= int(self._worker.pool.num_processes)

    def _tell_consumer(self, method: Literal["cancel", "consume"]) -> None:
        consumer = self._worker.task_consumer
        if consumer is None:
            return
        try:
            getattr(consumer, method)()
        except (*self._worker.connection_errors, *self._worker.channel_errors):
            # The worker's loop notices the lost connection as well, and reconnects.
            return


_intake: _Intake


def launcher_options() -> dict[str, Any]:
    """The options of the transport for a process that only sends.

    It gives up on a broker that does not answer: the loop that launches runs waits for it.
    """
    options = _transport_options()
    if broker_url().startswith("redis"):
        options |= {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    return options


def make_app() -> Celery:
    """The Celery application, without tasks."""
    app = Celery(
        "runyard", broker=broker_url(), backend="disabled://", config_source=celery_settings()
    )
    if is_rabbitmq():
        app.Task.Request = _EarlyAcknowledgedRequest
        app.steps["consumer"].add(_Intake)
    return app


def send_and_receive(seconds: float = 3.0) -> None:
    """Send a message through the broker and receive it, on a queue of its own.

    Also declares the queue of the runs, as launcher and workers do. Raises `RunyardError` with what
    to do when any of that fails.
    """
    options = celery_settings()["broker_transport_options"]
    try:
        with Connection(
            broker_url(), connect_timeout=seconds, transport_options=options
        ) as connection:
            connection.ensure_connection(max_retries=1, timeout=seconds)
            queue().bind(connection.default_channel).declare()
            _round_trip(connection, seconds)
    except RunyardError:
        raise
    except ChannelError as error:
        if "inequivalent arg" not in str(error):
            raise _unreachable(error) from None
        raise RunyardError(
            f"the broker has a queue `{QUEUE}` that something else declared with other arguments,"
            f" so no run can start: delete it (`rabbitmqctl delete_queue {QUEUE}`), or give"
            " RUNYARD_BROKER_URL a virtual host of its own"
        ) from None
    except Exception as error:
        raise _unreachable(error) from None


def _round_trip(connection: Connection, seconds: float) -> None:
    name = f"runyard-doctor-{uuid.uuid4()}"
    own = Queue(name, Exchange(""), routing_key=name, durable=False, expires=60)
    try:
        with connection.SimpleQueue(own, no_ack=True) as simple_queue:
            simple_queue.put({"sent": name})
            message = simple_queue.get(timeout=seconds)
    except Empty:
        raise RunyardError(
            "a message sent through the broker did not come back:"
            " check the broker's log, disk space and memory"
        ) from None
    finally:
        own.bind(connection.default_channel).delete()
    if message.payload != {"sent": name}:
        raise RunyardError(
            "the broker returned another message than the one that was sent:"
            " does something else use it?"
        )


def _unreachable(error: Exception) -> RunyardError:
    return RunyardError(
        f"the broker does not answer ({type(error).__name__}):"
        " check RUNYARD_BROKER_URL, and that the broker is running"
    )
