-- What the daemon writes to Dagster's own tables when it launches runs: the rows that Dagster's
-- sensor daemon would write one by one. The tables are those of Dagster 1.13; tests compare the
-- rows with Dagster's.

-- name: stopped_sensors
-- The selector ids of the sensors that are switched off. (a small table: scanned)
SELECT selector_id FROM instigators WHERE instigator_type = 'SENSOR' AND status = 'STOPPED'

-- name: latest_launches_first
-- Selector ids of sensors, those first that have launched runs most recently, as far as their ticks
-- are kept. (by idx_tick_selector_timestamp)
SELECT selector_id
FROM unnest(%(selectors)s::text[]) AS wanted (selector_id)
ORDER BY (
    SELECT max(timestamp) FROM job_ticks WHERE job_ticks.selector_id = wanted.selector_id
) DESC NULLS LAST

-- name: add_tick
-- Record a tick of a sensor that has launched runs or failed; returns its id, which is a tag of its
-- runs.
-- (nothing is read, nothing scanned)
INSERT INTO job_ticks
    (job_origin_id, selector_id, status, type, timestamp, tick_body, create_timestamp,
     update_timestamp)
VALUES (
    %(origin)s, %(selector)s, %(status)s, 'SENSOR',
    to_timestamp(%(at)s) AT TIME ZONE 'UTC', %(body)s,
    clock_timestamp() AT TIME ZONE 'UTC', clock_timestamp() AT TIME ZONE 'UTC')
RETURNING id

-- name: failed_ticks
-- What the ticks of sensors say that failed in the last seconds. (by job_ticks_pkey)
SELECT DISTINCT tick_body::jsonb #>> '{error,message}' AS error
FROM (SELECT * FROM job_ticks ORDER BY id DESC LIMIT 1000) AS latest
WHERE status = 'FAILURE' AND type = 'SENSOR'
    AND timestamp > (now() - make_interval(secs => %(seconds)s)) AT TIME ZONE 'UTC'
ORDER BY error

-- name: add_runs
-- Add runs that are starting, with their tags and the first event of their logs. Dagster keeps its
-- times in UTC. (nothing is read, nothing scanned)
WITH added AS (
    INSERT INTO runs
        (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp, update_timestamp)
    SELECT run_id, snapshot_id, job, 'STARTING', body, at, at
    FROM unnest(%(run_ids)s::text[], %(snapshots)s::text[], %(jobs)s::text[], %(bodies)s::text[])
        AS added (run_id, snapshot_id, job, body),
        CAST(to_timestamp(%(at)s) AT TIME ZONE 'UTC' AS timestamp) AS at
),
tagged AS (
    INSERT INTO run_tags (run_id, key, value)
    SELECT * FROM unnest(%(tagged)s::text[], %(keys)s::text[], %(values)s::text[])
)
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)
SELECT run_id, event, 'PIPELINE_STARTING', to_timestamp(%(at)s) AT TIME ZONE 'UTC'
FROM unnest(%(run_ids)s::text[], %(events)s::text[]) AS logged (run_id, event)

-- name: mark_handed_over
-- Record that the run of a batch was handed to the broker. A commit that is lost in a crash of the
-- server is found out by `unlaunched_batches`. (by batches_pkey)
WITH fast AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS commit)
UPDATE runyard.batches SET launched_at = clock_timestamp(), heartbeat_at = clock_timestamp()
FROM fast WHERE id = %(batch)s AND status = 'claimed' AND fast.commit = 'off'
