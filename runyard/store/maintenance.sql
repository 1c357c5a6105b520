-- What the maintenance services need of their own; parameters are as in queries.sql.

-- name: lock_maintenance
-- Take the lock that one process at a time does the maintenance under, until the session ends.
-- Returns whether it was free. (an advisory lock, nothing scanned)
SELECT pg_try_advisory_lock(8290, 2) AS locked

-- name: lock_maintenance_once
-- The same lock until the transaction ends, which a connection pooler allows too.
-- (an advisory lock, nothing scanned)
SELECT pg_try_advisory_xact_lock(8290, 2) AS locked

-- name: lock_alerts
-- Take the lock that one process at a time sends alerts under, until the session ends. Returns
-- whether it was free. (an advisory lock, nothing scanned)
SELECT pg_try_advisory_lock(8290, 4) AS locked

-- name: failure_counts
-- How many invocations of each function have failed for good. (two small tables: scanned)
SELECT name, sum(count)::bigint AS count FROM (
    SELECT name, count FROM runyard.counters WHERE metric = 'ended' AND label = 'failed'
    UNION ALL
    SELECT name, count FROM runyard.tallies WHERE metric = 'ended' AND label = 'failed'
) AS failed
GROUP BY name ORDER BY name

-- name: alerts
-- What a receiver has been told, and the time. (by alerts_pkey)
SELECT source, seen, since, sent_at FROM runyard.alerts WHERE target = %(target)s

-- name: now
-- The time, as rows have it. (nothing scanned)
SELECT runyard.now_v1() AS now

-- name: mark_alerts
-- Remember what a receiver has been told, or need not be. (by alerts_pkey)
INSERT INTO runyard.alerts (target, source, seen, since, sent_at)
SELECT %(target)s, source, seen, %(since)s, CASE WHEN %(sent)s THEN %(since)s::timestamptz END
FROM unnest(%(sources)s::text[], %(seen)s::bigint[]) AS told (source, seen)
ON CONFLICT (target, source) DO UPDATE SET
    seen = excluded.seen, since = excluded.since,
    sent_at = coalesce(excluded.sent_at, alerts.sent_at)

-- name: first_failure
-- The first failure of a function since a time, among the latest. (by invocations_failed)
SELECT id, error, finished_at FROM (
    SELECT id, error, finished_at FROM runyard.invocations
    WHERE function = %(function)s AND status = 'failed' AND dismissed_at IS NULL
    ORDER BY id DESC LIMIT %(latest)s
) AS latest
WHERE %(since)s::timestamptz IS NULL OR finished_at >= %(since)s
ORDER BY finished_at, id LIMIT 1

-- name: purge
-- Delete rows that no longer mean anything: the flow control state of keys that are quiet, waits
-- that outlived their invocation, messages that were read, texts as they were written a day ago,
-- and counters that have not counted for a day and whose function or trigger the code no longer
-- has, with what alerts have told of them. Returns how many. (by progress_written, functions_pkey,
-- triggers_event, counters_pkey; flow_control_state, waits, messages, counters and alerts are
-- scanned)
WITH quiet AS (
    DELETE FROM runyard.flow_control_state
    WHERE until < runyard.now_v1() - interval '1 hour' AND kind <> 'singleton'
    RETURNING 1
),
outlived AS (
    DELETE FROM runyard.waits WHERE id IN (
        SELECT waits.id
        FROM runyard.waits JOIN runyard.invocations ON invocations.id = waits.invocation_id
        WHERE waits.expires_at < runyard.now_v1() - interval '1 hour'
            AND invocations.status IN ('succeeded', 'failed', 'cancelled', 'skipped')
        LIMIT 1000 FOR UPDATE OF waits SKIP LOCKED
    ) RETURNING 1
),
read AS (
    DELETE FROM runyard.messages WHERE at < runyard.now_v1() - interval '1 minute' RETURNING 1
),
written AS (
    DELETE FROM runyard.progress
    WHERE written IS NOT NULL AND at < runyard.now_v1() - interval '24 hours' RETURNING 1
),
retired AS (  -- all buckets of a histogram, or none
    DELETE FROM runyard.counters WHERE CASE
        WHEN metric <> 'received' THEN NOT EXISTS (
            SELECT FROM runyard.functions WHERE functions.name = counters.name AND active)
        ELSE name <> 'other' AND NOT EXISTS (
            SELECT FROM runyard.triggers
            JOIN runyard.functions ON functions.name = triggers.function AND active
            WHERE NOT wildcard AND triggers.event = counters.name)
        END
        AND NOT EXISTS (
            SELECT FROM runyard.counters AS other
            WHERE other.metric = counters.metric AND other.name = counters.name
                AND other.at >= runyard.now_v1() - interval '24 hours')
    RETURNING metric, name
),
told AS (
    DELETE FROM runyard.alerts
    WHERE source IN (SELECT 'function ' || name FROM retired WHERE metric = 'ended')
)
SELECT (SELECT count(*) FROM quiet) + (SELECT count(*) FROM outlived)
    + (SELECT count(*) FROM read) + (SELECT count(*) FROM written)
    + (SELECT count(*) FROM retired) AS count

-- name: purge_ticks
-- Delete the ticks of sensors with one of these statuses and from before a time (in UTC, as Dagster
-- stores it), among the next rows by id. Ids grow with time, so that a purge need not look again at
-- what it passed over. Returns how many were deleted, the id after which the next purge continues,
-- and whether all of the rows were from before that time.
-- (by the primary key: none of Dagster's indexes has the time without the sensor)
WITH next AS (
    SELECT id, type = 'SENSOR' AND status = ANY (%(statuses)s) AS purged,
        type = 'SENSOR' AND timestamp >= %(before)s AS recent
    FROM job_ticks WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
),
deleted AS (
    DELETE FROM job_ticks
    WHERE id = ANY (ARRAY(SELECT id FROM next WHERE purged AND NOT recent)) RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) AS count,
    coalesce(min(id) FILTER (WHERE recent) - 1, max(id)) AS last,
    count(*) FILTER (WHERE recent) = 0 AND count(*) = %(limit)s AS more
FROM next
