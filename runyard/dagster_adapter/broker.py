"""The broker between daemon and workers: files in the data folder by default, Redis or RabbitMQ by URL.

Kombu's filesystem transport makes a message visible under its final name while it is being written, so that a worker
may take half of it. Ours writes it under another name first; a rename is atomic.

RabbitMQ closes the channel of a consumer that has not acknowledged a message within 30 minutes, and Celery ends then. A run
may take hours, so there a message is acknowledged when a worker's process has taken it up: from then on the lease guards
the run. What a worker holds unacknowledged when it is killed, RabbitMQ gives to another at once; what it has
acknowledged comes back when its lease has run out.
"""

import os
import uuid
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any

from celery import Celery, bootsteps
from celery.worker import request as celery_request
from celery.worker import state
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from runyard.errors import RunyardError
from runyard.settings import settings
from runyard.store.data_folder import make_folder

QUEUE = "dagster"
_POLL_SECONDS = 0.02
_SCHEME = "runyardfiles"


class Channel(filesystem.Channel):
    """Kombu's filesystem channel, with messages that appear whole."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # its two bases differ themselves
        name = f"{monotonic() * 1000:016.3f}_{uuid.uuid4()}"
        hidden = os.path.join(self.data_folder_out, f"{name}.writing")
        with open(hidden, "wb") as file:
            file.write(str_to_bytes(dumps(payload)))
        os.rename(
            hidden, os.path.join(self.data_folder_out, f"{name.replace('.', '-')}.{queue}.msg")
        )


class Transport(filesystem.Transport):
    """Kombu's filesystem transport with our channel, and in Celery's event loop.

    Without that loop Celery's processes share one pipe and its lock: one that is killed while it waits for work keeps the lock, and no other gets
    any from then on.
    """

    Channel = Channel
    implements = filesystem.Transport.implements.extend(asynchronous=True)

    def register_with_event_loop(self, _: Any, loop: Any) -> None:
        """Look for messages every 20 ms."""
        loop.call_repeatedly(_POLL_SECONDS, self._take_all)

    def _take_all(self) -> None:
        with suppress(Empty):
            while True:
                self.cycle.get(self._deliver)  # type: ignore[union-attr]  # it is None only behind the end


TRANSPORT_ALIASES[_SCHEME] = "runyard.dagster_adapter.broker:Transport"


def broker_url() -> str:
    """The URL of the broker; the folder of the default one is made."""
    chosen = settings().broker_url
    if chosen is not None:
        return chosen.get_secret_value()
    make_folder(settings().broker_dir / "queue")
    make_folder(settings().broker_dir / "control")
    return f"{_SCHEME}://localhost/"


def is_rabbitmq() -> bool:
    """Whether the broker is RabbitMQ, or another that speaks AMQP."""
    return broker_url().startswith(("amqp", "pyamqp"))


def queue() -> Queue:
    """The queue of the runs. Whoever declares it must do so with the same arguments, or RabbitMQ refuses; these are dagster-celery's."""
    return Queue(QUEUE, Exchange(""), routing_key=QUEUE, queue_arguments={"x-max-priority": 10})


def celery_settings() -> dict[str, Any]:
    """The settings that launcher and workers share."""
    transport: dict[str, Any] = {"visibility_timeout": 7 * 86_400}
    if is_rabbitmq():
        # A launch ends well only when RabbitMQ has the message.
        transport = {"confirm_publish": True}
    if settings().broker_url is None:
        folder = settings().broker_dir
        transport = {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
            "polling_interval": _POLL_SECONDS,
        }
    return {
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        # A channel that the broker closes is opened again; Celery would end the worker.
        "broker_channel_error_retry": True,
        "task_default_queue": QUEUE,
        "task_queues": [queue()],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # A worker takes no message that it cannot start at once: others, or another host, may be idle.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        # A process that is gone gives no late result: its message is done with, and its slot free.
        "worker_lost_wait": 1.0,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


class _AcknowledgedEarly(celery_request.Request):
    """A task whose message is acknowledged when a process has taken it up, rather than when that has done it.

    Celery acknowledges it once more at the end, which only makes the worker look at its slots again.
    """

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        self.acknowledge()

    def acknowledge(self) -> None:
        _intake.stop_when_full()
        super().acknowledge()
        _intake.go_on_when_free()


class _Intake(bootsteps.StartStopStep):
    """Takes messages of RabbitMQ while the worker has a free slot, and leaves them to others while it has none.

    One message at a time is on its way: the next one comes when it is acknowledged. One that comes with the connection made
    anew while all slots are busy waits for a slot.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        global _intake
        super().__init__(consumer)
        self._worker = consumer
        consumer.initial_prefetch_count = 1
        _intake = self

    def stop_when_full(self) -> None:
        """Take no further messages while all slots are busy."""
        if self._is_full():
            self._tell("cancel")

    def go_on_when_free(self) -> None:
        """Take messages, when a slot is free."""
        if not self._is_full():
            self._tell("consume")

    def _is_full(self) -> bool:
        return len(state.reserved_requests) >= int(self._worker.pool.num_processes)

    def _tell(self, what: str) -> None:
        consumer = self._worker.task_consumer
        if consumer is None:
            return
        try:
            getattr(consumer, what)()
        except (*self._worker.connection_errors, *self._worker.channel_errors):
            # The worker's loop finds the connection lost too, and makes it again.
            return


_intake: _Intake


def make_app() -> Celery:
    """The Celery application, without tasks."""
    app = Celery(
        "runyard", broker=broker_url(), backend="disabled://", config_source=celery_settings()
    )
    if is_rabbitmq():
        app.Task.Request = _AcknowledgedEarly
        app.steps["consumer"].add(_Intake)
    return app


def send_and_receive(seconds: float = 3.0) -> None:
    """Send a message through the broker and take it back, on a queue of its own; declare the queue of the runs as launcher and workers do.

    Raises `RunyardError` with what is to be done when that fails.
    """
    options = celery_settings()["broker_transport_options"]
    try:
        with Connection(
            broker_url(), connect_timeout=seconds, transport_options=options
        ) as connection:
            connection.ensure_connection(max_retries=1, timeout=seconds)
            queue().bind(connection.default_channel).declare()
            _round_trip(connection, seconds)
    except ChannelError as error:
        if "inequivalent arg" not in str(error):
            raise _away(error) from None
        raise RunyardError(
            f"the broker has a queue `{QUEUE}` with other arguments, from something else: delete it (`rabbitmqctl delete_queue {QUEUE}`),"
            " or give RUNYARD_BROKER_URL a virtual host of its own; nothing runs until then"
        ) from None
    except RunyardError:
        raise
    except Exception as error:
        raise _away(error) from None


def _round_trip(connection: Connection, seconds: float) -> None:
    name = f"runyard-doctor-{uuid.uuid4()}"
    own = Queue(name, Exchange(""), routing_key=name, durable=False, expires=60)
    try:
        with connection.SimpleQueue(own, no_ack=True) as box:
            box.put({"says": name})
            message = box.get(timeout=seconds)
    except Empty:
        raise RunyardError(
            "a message that was sent through the broker did not come back: look at the broker's log, at its disk and memory"
        ) from None
    finally:
        own.bind(connection.default_channel).delete()
    if message.payload != {"says": name}:
        raise RunyardError(
            "another message came back from the broker than the one that was sent: does something else use it?"
        )


def _away(error: Exception) -> RunyardError:
    return RunyardError(
        f"the broker does not answer ({type(error).__name__}): check RUNYARD_BROKER_URL and that it runs"
    )
