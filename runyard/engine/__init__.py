"""The durable engine, as rows and leases: it knows nothing of Dagster.

`dispatch` claims queued invocations as a batch, writes what became of them, and does all between;
a `lease` says which run has a batch, and is renewed while its process lives. `batch` is what the
steps of a function are written with: `steps` records each result, `waits` suspends an invocation
until a time or an event, `failures` decides what an error means. `activity`, `overseer` and `crew`
find the steps that hang. `bulk` replays and cancels many invocations, `retention` deletes old ones,
`rollups` counts them, `api_keys` are the keys of the HTTP API.
"""
