"""The durable engine: rows and leases, nothing of Dagster.

- `dispatch` is the life of a batch: it claims queued invocations, saves the results of their steps
  and settles their outcomes. A `lease` says which run has a batch; the heartbeat renews it.
  `listener` waits for news from the database, and `backoff` is how endless loops treat errors.
- `batch` is what the steps of a function are written with. `items` are the invocations in it,
  `steps` runs a step and saves its results, `waits` suspends invocations until a time or an event,
  `failures` decides what an error means, `progress` stores what steps report.
- `activity` shows what a process is doing, a `watchdog` finds the steps that hang, and
  `step_threads` are threads that can be abandoned.
- `control` and `bulk` replay, cancel and pause; `retention` deletes old history, `rollups` counts
  it; `api_keys` are the keys of the HTTP API; `status` names every status.
"""
