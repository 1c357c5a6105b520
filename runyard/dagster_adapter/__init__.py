"""Everything that makes, takes and ends a Dagster run.

A `sensor` or a schedule wakes when an event has come and asks for one run a batch; the `launcher`
hands it over the `broker` to a warm worker; the `ops` receive the batch and settle it, the
`io_manager` carries it between them. The `reaper` takes back what a lost run held. Names that
Dagster does not promise stand in `internals` alone.
"""
