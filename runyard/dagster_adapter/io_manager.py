"""Hands batches between ops through Postgres.

A batch's state is in the event table after every step, so there is nothing to write between two ops: an op in the
same process gets the object itself, and one in another process, on another host, or in a run that re-executes this one
gets it made again from the tables.
"""

from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext

from runyard.dagster_adapter.ops import batch_for_input, remember_dropped
from runyard.engine.batch import Batch


class BatchIOManager(ConfigurableIOManager):
    """Carries `Batch` objects; what `settle` returns is small and only shown. Other outputs need an IO manager of their own."""

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Remember who has left a batch; raises TypeError for values that no later op could load."""
        if isinstance(obj, Batch):
            remember_dropped(context.run_id, context.step_key, obj)
        elif not isinstance(obj, dict):
            raise TypeError(
                f"op {context.step_key} returned {type(obj).__name__}: ops of a function return their Batch; give this output an io_manager_key of its own"
            )

    def load_input(self, context: InputContext) -> Batch:
        """The batch of this run as the op before left it; for a run that re-executes another from its failure, what that one left undone."""
        step = context.step_context
        assert context.upstream_output is not None
        return batch_for_input(
            step.run_id,
            step.dagster_run.parent_run_id,
            context.upstream_output.step_key,
            step.step.key,
        )
