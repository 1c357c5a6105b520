"""The durable engine: rows and leases, nothing of Dagster.

- The life of a batch: `due` says when a function has something to claim, `batch_claims` claims it,
  `batch_leases` begins the batch in a run or takes it away, `checkpoints` saves the results of its
  steps, `wait_registration` what its invocations wait for and `dropped_invocations` which of them
  left it, and `settlement` writes their outcomes. `chunked_writes` keeps one bad row from spoiling
  the others.
- A `lease` says which run of this process has which batch; the heartbeat renews it. `listener`
  waits for news from the database, `backoff` is how endless loops treat errors, and `housekeeping`
  is what the database needs done now and then.
- `batch` is what the steps of a function are written with. `items` are the invocations in it,
  `steps` runs a step and saves its results, `waits` suspends invocations until a time or an event,
  `failures` decides what an error means, `progress` stores what steps report.
- `activity` shows what a process is doing, a `watchdog` finds the steps that hang, and
  `step_threads` are threads that can be abandoned.
- `control` and `bulk` replay, cancel and pause; `retention` deletes old history, `rollups` counts
  it; `api_keys` are the keys of the HTTP API; `status` names every status.
"""
