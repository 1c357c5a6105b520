"""A whole stack whose runs go through RabbitMQ.

Also with runs that take longer than its consumer timeout, killed workers and a broker that crashes.
"""

from pathlib import Path

import psutil
import pytest

from runyard import Event, send
from runyard.store import database
from tests.conftest import event, settled, wait_until
from tests.faults.conftest import doctor, running
from tests.servers import RabbitMQ, rabbitmq

# RabbitMQ closes the channel of a consumer that does not acknowledge a message for so long.
_CONSUMER_TIMEOUT_SECONDS = 2


def worker() -> psutil.Process:
    """The parent process of the only worker."""
    latest = b"SELECT pid FROM runyard.workers ORDER BY heartbeat_at DESC LIMIT 1"
    with database.connection() as connection:
        row = wait_until(lambda: connection.execute(latest).fetchone())
    return psutil.Process(row["pid"])


def running_now(event_id: str) -> bool:
    return [row["status"] for row in event(event_id)["invocations"]] == ["running"]


def steps_of(event_id: str) -> list[str]:
    """The steps whose results are saved."""
    return [step["step"] for row in event(event_id)["invocations"] for step in row["steps"]]


def test_rabbitmq_carries_long_runs_and_a_crash_of_it_or_of_a_worker_loses_none(
    own_database: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with (
        rabbitmq(tmp_path, f"consumer_timeout = {_CONSUMER_TIMEOUT_SECONDS * 1000}") as broker,
        running(tmp_path, RUNYARD_BROKER_URL=broker.url) as log,
    ):
        assert "a message went through it and back" in doctor(
            "broker", RUNYARD_BROKER_URL=broker.url
        )
        ids = send([Event("test/steps", {"n": n}) for n in range(5)])
        assert [settled(event_id)["status"] for event_id in ids] == ["succeeded"] * 5

        # Both slots are busy for longer than the broker waits for an acknowledgement, and more
        # runs are queued. The second event is sent when the first is running, or they may share
        # a run.
        long = send("test/steps", {"gate": str(gate), "n": 0})
        wait_until(lambda: running_now(long[0]))
        long += send("test/steps", {"gate": str(gate), "n": 1})
        wait_until(lambda: running_now(long[1]))
        waiting = send("test/steps", {"n": 3})
        _wait_out(broker)
        assert _consumers(broker) == 0, "a worker without a free slot takes messages"
        gate.touch()
        assert [settled(event_id)["status"] for event_id in [*long, *waiting]] == ["succeeded"] * 3
        assert "PreconditionFailed" not in log.read_text()

        # The broker crashes, and restarts with its messages.
        old = worker().pid
        broker.kill()
        meanwhile = send("test/steps", {"n": 4})
        broker.start()
        assert settled(meanwhile[0], 90)["status"] == "succeeded"
        assert worker().pid == old, "the worker ended with its connection"

        # A worker crashes with its children.
        gate.unlink()
        [held] = send("test/steps", {"gate": str(gate), "key": "held"})
        wait_until(lambda: steps_of(held) == ["first"])
        parent = worker()
        for process in [*parent.children(recursive=True), parent]:
            process.kill()
        gate.touch()
        assert settled(held, 60)["status"] == "succeeded"
        lines = (tmp_path / "effects" / "held").read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["first", "second"]


def test_doctor_names_a_queue_that_something_else_has_declared(tmp_path: Path) -> None:
    from kombu import Connection, Queue

    with rabbitmq(tmp_path) as broker:
        with Connection(broker.url) as connection:
            Queue("dagster").bind(connection.default_channel).declare()
        says = doctor("broker", RUNYARD_BROKER_URL=broker.url)
    assert "FAIL" in says
    assert "rabbitmqctl delete_queue dagster" in says


def _consumers(broker: RabbitMQ) -> int:
    """How many workers consume messages."""
    from kombu import Connection

    from runyard.dagster_adapter.broker import queue

    with Connection(broker.url) as connection:
        return int(
            queue().bind(connection.default_channel).queue_declare(passive=True).consumer_count
        )


def _wait_out(broker: RabbitMQ) -> None:
    """Hold a message until RabbitMQ closes the channel: its consumer timeout has passed."""
    from amqp.exceptions import PreconditionFailed
    from kombu import Connection, Queue

    with Connection(broker.url) as connection:
        queue = Queue("witness", exclusive=True).bind(connection.default_channel)
        queue.declare()
        connection.Producer().publish("held", routing_key="witness")
        queue.consume(callback=lambda _: None, no_ack=False)
        connection.drain_events(timeout=30)  # the message
        with pytest.raises(PreconditionFailed):
            connection.drain_events(timeout=30)
