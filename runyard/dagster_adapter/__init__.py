"""Everything that creates, launches, executes and ends a Dagster run.

A `sensors` sensor or one of the `schedules` wakes when an event has arrived and requests one run
per batch; the `launcher` sends the run through the `broker` to a warm worker, which carries out
its `execution`. The `ops` receive and settle the batch; `batches` knows which batch a run holds,
and the `io_manager` hands it from op to op. The `reaper` releases what a lost run held. Only
`internals` imports private names of Dagster.
"""
