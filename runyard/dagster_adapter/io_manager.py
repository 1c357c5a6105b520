"""Hands batches from op to op through Postgres.

A batch's state is in the event tables after every step, so there is nothing to write between two
ops. An op in the same process gets the object itself; one in another process, on another host, or
in a run that re-executes this one gets it rebuilt from the tables.
"""

from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext

from runyard.dagster_adapter.batches import batch_for_input, remember_dropped
from runyard.engine.batch import Batch


class BatchIOManager(ConfigurableIOManager):
    """Carries `Batch` objects, and shows what `settle` returns.

    Other outputs need an IO manager of their own.
    """

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Record which invocations left a batch; raises TypeError for what no op could load."""
        if isinstance(obj, Batch):
            remember_dropped(context.run_id, context.step_key, obj)
        elif not isinstance(obj, dict):
            raise TypeError(
                f"op {context.step_key} returned {type(obj).__name__}: ops of a function return"
                " their Batch; give this output an io_manager_key of its own"
            )

    def load_input(self, context: InputContext) -> Batch:
        """The batch of this run as the upstream op left it.

        For a run that re-executes another one from its failure: what that one left undone.
        """
        step = context.step_context
        assert context.upstream_output is not None
        return batch_for_input(
            step.run_id,
            step.dagster_run.parent_run_id,
            context.upstream_output.step_key,
            step.step.key,
        )
