"""Random sends, claims, failures, crashes and late workers, against a simple model in Python.

Once everything has settled, every invocation is final exactly once, no completed step ran again,
and no late worker's write was accepted.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runyard import Event, send
from runyard.engine import batch_claims, batch_leases, checkpoints, settlement
from runyard.engine.settlement import Outcome
from runyard.errors import LeaseLost
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.store import database
from tests.tables import empty_tables, rows

ATTEMPTS = 3
FUNCTION = Function(
    "walk",
    "walk_job",
    ("walk/requested",),
    max_batch=4,
    retry=Retry(attempts=ATTEMPTS, delays=(0.0,), jitter=0),
)


@dataclass
class Running:
    """A run that holds, or believes to hold, a batch."""

    batch: str
    run: str
    invocations: list[int]
    attempts: dict[int, int]
    kept: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    lost: bool = False


class Walk(RuleBasedStateMachine):
    """The model: which runs hold what, and what became of every invocation."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.counter = 0
        self.running: list[Running] = []
        self.late: list[Running] = []
        self.final: dict[int, str] = {}
        self.completed: set[tuple[int, str]] = set()
        self._registered = ExitStack()
        self._registered.enter_context(registry.use(FUNCTION))
        empty_tables()
        with database.connection() as connection:
            connection.execute(
                "INSERT INTO runyard.workers (name, host, pid, slots) VALUES ('w', 'h', 1, 50)"
                " ON CONFLICT (name) DO UPDATE SET slots = 50, heartbeat_at = now()"
            )
        registry.publish()

    @rule(count=st.integers(1, 6))
    def send(self, count: int) -> None:
        send([Event("walk/requested") for _ in range(count)])
        self.sent += count

    @rule()
    def claim_and_begin(self) -> None:
        for claim in batch_claims.claim(FUNCTION) or []:
            self.counter += 1
            begun = batch_leases.begin(claim.batch_id, f"run-{self.counter}", fresh=False)
            assert begun is not None
            _, rows, steps = begun
            assert not {row["id"] for row in rows} & self.final.keys()
            assert not {row["id"] for row in rows} & {
                one for run in self.running for one in run.invocations
            }
            assert {
                (step["invocation_id"], step["step"]) for step in steps if step["error"] is None
            } == {
                (invocation, step)
                for invocation, step in self.completed
                if invocation in {row["id"] for row in rows}
            }
            self.running.append(
                Running(
                    claim.batch_id,
                    f"run-{self.counter}",
                    [row["id"] for row in rows],
                    {row["id"]: row["attempt"] for row in rows},
                )
            )

    @precondition(lambda self: self.running)
    @rule(data=st.data(), step=st.sampled_from(["a", "b"]))
    def keep_a_step(self, data: st.DataObject, step: str) -> None:
        run = data.draw(st.sampled_from(self.running))
        todo = [one for one in run.invocations if (one, step) not in self.completed]
        chosen = data.draw(st.lists(st.sampled_from(todo), unique=True)) if todo else []
        if chosen:
            checkpoints.save_steps(
                run.batch,
                run.run,
                step,
                [(one, run.attempts[one], "1", None, 1.0, 2.0) for one in chosen],
            )
            self.completed |= {(one, step) for one in chosen}

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.running))
        outcomes: list[Outcome] = []
        for one in run.invocations:
            wanted = data.draw(st.sampled_from(["succeeded", "failed", "queued"]))
            if wanted == "queued" and run.attempts[one] >= ATTEMPTS:
                wanted = "failed"
            outcomes.append(Outcome(one, wanted))
            if wanted != "queued":
                assert one not in self.final
                self.final[one] = wanted
        settlement.settle(run.batch, run.run, outcomes)
        self.running.remove(run)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.running))
        with database.connection() as connection:
            connection.execute(
                "UPDATE runyard.batches SET heartbeat_at = now() - interval '1 hour' WHERE id = %s",
                (run.batch,),
            )
        assert run.batch in {row["id"] for row in batch_leases.overdue()}
        batch_leases.release(
            run.batch,
            "running",
            "queued",
            attempts=ATTEMPTS,
            crashed=True,
            error='{"type": "WorkerLost"}',
        )
        # A crash of a run with several invocations costs none of them an attempt.
        if len(run.invocations) == 1 and run.attempts[run.invocations[0]] >= ATTEMPTS:
            self.final[run.invocations[0]] = "failed"
        self.running.remove(run)
        self.late.append(run)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def a_late_worker_writes(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.late))
        for write in (
            lambda: checkpoints.save_steps(
                run.batch, run.run, "late", [(run.invocations[0], 1, "1", None, 1.0, 2.0)]
            ),
            lambda: settlement.settle(
                run.batch, run.run, [Outcome(one, "succeeded") for one in run.invocations]
            ),
        ):
            try:
                write()
            except LeaseLost:
                continue
            raise AssertionError("a late write was taken")

    @invariant()
    def the_table_agrees(self) -> None:
        invocations = rows("SELECT id, status FROM runyard.invocations")
        assert len(invocations) == self.sent
        held = {invocation for run in self.running for invocation in run.invocations}
        for row in invocations:
            expected = self.final.get(row["id"], "running" if row["id"] in held else "queued")
            assert row["status"] == expected, row
        completed = {
            (row["invocation_id"], row["step"])
            for row in rows("SELECT invocation_id, step FROM runyard.steps")
        }
        assert completed == self.completed

    def teardown(self) -> None:
        """Let everything open succeed: then everything is final."""
        for run in self.running:
            settlement.settle(
                run.batch, run.run, [Outcome(one, "succeeded") for one in run.invocations]
            )
        for _ in range(self.sent + 1):
            for claim in batch_claims.claim(FUNCTION) or []:
                begun = batch_leases.begin(claim.batch_id, "last")
                assert begun is not None
                settlement.settle(
                    claim.batch_id, "last", [Outcome(row["id"], "succeeded") for row in begun[1]]
                )
        self._registered.close()
        assert (
            rows("SELECT id FROM runyard.invocations WHERE status NOT IN ('succeeded', 'failed')")
            == []
        )


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
