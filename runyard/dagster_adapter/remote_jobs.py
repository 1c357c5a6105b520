"""The jobs of functions that applications serve: `receive`, then `call`, then `settle`.

They differ in name, description and tags alone. So a process can execute a run of any of them,
also of one that was registered after it started, or that is registered no longer.
"""

from collections.abc import Mapping

from dagster import (
    DagsterExecutionInterruptedError,
    GraphDefinition,
    In,
    JobDefinition,
    Out,
    graph,
    in_process_executor,
    op,
)

from runyard.apps.driver import drive, target_of
from runyard.dagster_adapter.io_manager import BatchIOManager
from runyard.dagster_adapter.ops import BATCHES, drawn_receive, drawn_settle
from runyard.engine.batch import Batch


@op(
    name="runyard_call",
    ins={"batch": In(Batch)},
    out=Out(Batch, io_manager_key=BATCHES),
    description="Call the application, until every invocation has ended or waits for something.",
)
def _call(batch: Batch) -> Batch:
    try:
        drive(batch.state, list(batch.active_items()), target_of(batch.function))
    except KeyboardInterrupt:
        raise DagsterExecutionInterruptedError from None
    return batch


@graph(name="remote_function")
def _calls() -> None:
    drawn_settle.alias("settle")(_call.alias("call")(drawn_receive.alias("receive")()))


_RESOURCES = {BATCHES: BatchIOManager()}


def remote_job(
    name: str, description: str | None = None, tags: Mapping[str, str] | None = None
) -> JobDefinition:
    """The job of a function that an application serves."""
    calls: GraphDefinition = _calls
    return calls.to_job(
        name=name,
        description=description,
        tags=tags,
        resource_defs=_RESOURCES,
        executor_def=in_process_executor,
    )
