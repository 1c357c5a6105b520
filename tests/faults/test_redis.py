"""A whole stack whose runs go through a Redis that is emptied, killed and stopped."""

from pathlib import Path

from runyard import Event, send
from tests.conftest import event, settled, wait_until
from tests.faults.conftest import running
from tests.servers import redis
from tests.tables import rows

_HANDED_OVER = "SELECT id FROM runyard.batches WHERE status = 'claimed' AND launched_at IS NOT NULL"
_OPEN_RUNS = (
    "SELECT run_id, status FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)


def running_now(event_id: str) -> bool:
    return [row["status"] for row in event(event_id)["invocations"]] == ["running"]


def busy(gate: Path) -> list[str]:
    """Occupy both slots until the gate is there, and hand another run over to the broker."""
    gate.unlink(missing_ok=True)
    ids: list[str] = []
    for n in range(2):
        [event_id] = send("test/steps", {"gate": str(gate), "n": n})
        wait_until(lambda of=event_id: running_now(of))
        ids.append(event_id)
    ids += send("test/steps", {"n": 2})
    wait_until(lambda: rows(_HANDED_OVER))
    return ids


def test_a_redis_that_is_emptied_or_crashes_or_hangs_loses_no_event_and_leaves_no_run_open(
    own_database: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with (
        redis(tmp_path) as broker,
        running(tmp_path, RUNYARD_BROKER_URL=broker.url, RUNYARD_LEASE_SECONDS="4"),
    ):
        ids = send([Event("test/steps", {"n": n}) for n in range(5)])
        assert [settled(event_id)["status"] for event_id in ids] == ["succeeded"] * 5

        ids = busy(gate)
        broker.flush()
        gate.touch()
        assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"] * 3

        ids = busy(gate)
        broker.kill()
        ids += send("test/steps", {"n": 3})
        broker.start()
        gate.touch()
        assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"] * 4

        broker.hang()
        ids = send("test/steps", {"n": 4})
        wait_until(lambda: rows("SELECT function FROM runyard.failed_launches"))
        broker.resume()
        assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"]
        wait_until(lambda: not rows(_OPEN_RUNS), 60)
