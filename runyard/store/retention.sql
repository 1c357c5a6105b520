-- Retention: old rows are deleted, a few thousand per statement, so that no lock is held for long.
-- As in queries.sql, parameters are %(named)s.

-- name: function_names
-- Every function that has ever existed. (a small table: scanned)
SELECT name FROM runyard.functions ORDER BY name

-- name: old_invocations
-- The next of a function's invocations that ended before a time, in the order of their creation,
-- after the last one; of a group its leader. (by invocations_function)
SELECT id, created_at FROM runyard.invocations
WHERE function = %(function)s AND created_at < %(before)s AND finished_at < %(before)s
    AND (leader_id IS NULL OR leader_id = id)
    AND (%(after_at)s::timestamptz IS NULL OR (created_at, id) > (%(after_at)s, %(after_id)s))
ORDER BY created_at, id LIMIT %(limit)s

-- name: delete_invocations
-- Delete invocations with everything that belongs to them, except those that have been requeued
-- meanwhile, or are locked by a transaction that replays or dismisses them; a group is deleted with
-- its leader. Returns the deleted ones.
-- (by steps_pkey, step_logs_pkey, run_segments_invocation, progress_invocation, waits_pkey,
-- invocations_pkey and invocations_leader)
WITH old AS (
    SELECT id FROM runyard.invocations
    WHERE id = ANY (%(ids)s) AND finished_at < %(before)s FOR UPDATE SKIP LOCKED
),
deleted AS (
    DELETE FROM runyard.invocations WHERE id IN (
        SELECT id FROM old
        UNION ALL
        SELECT invocations.id FROM old JOIN runyard.invocations ON leader_id = old.id
            AND invocations.id <> leader_id
    ) RETURNING id
),
deleted_steps AS (
    DELETE FROM runyard.steps WHERE invocation_id IN (SELECT id FROM deleted)
),
deleted_segments AS (
    DELETE FROM runyard.run_segments WHERE invocation_id IN (SELECT id FROM deleted)
),
deleted_logs AS (
    DELETE FROM runyard.step_logs WHERE invocation_id IN (SELECT id FROM deleted)
),
deleted_progress AS (
    DELETE FROM runyard.progress WHERE invocation_id IN (SELECT id FROM deleted)
),
deleted_waits AS (
    DELETE FROM runyard.waits WHERE invocation_id IN (SELECT id FROM deleted)
)
SELECT id FROM deleted

-- name: old_events
-- The next events received before a time, and whether nothing depends on them any more: no
-- invocation, and no idempotency key, which counts for 24 hours.
-- (by events_received_at and invocations_event)
SELECT id, received_at,
    NOT EXISTS (SELECT FROM runyard.invocations WHERE invocations.event_id = events.id)
        AND (idempotency_key IS NULL OR received_at < runyard.now_v1() - interval '24 hours')
        AS done
FROM runyard.events
WHERE received_at < %(before)s
    AND (%(after_at)s::timestamptz IS NULL OR (received_at, id) > (%(after_at)s, %(after_id)s))
ORDER BY received_at, id LIMIT %(limit)s

-- name: delete_events
-- Delete events, unless they have got an invocation meanwhile; returns the deleted ones.
-- (by events_pkey and invocations_event)
DELETE FROM runyard.events
WHERE id = ANY (%(ids)s)
    AND NOT EXISTS (SELECT FROM runyard.invocations WHERE invocations.event_id = events.id)
RETURNING id

-- name: old_batches
-- The next batches that ended before a time; an id begins with the time of its creation.
-- (by batches_pkey)
SELECT id FROM runyard.batches
WHERE id < %(below)s AND id > %(after)s AND status IN ('finished', 'lost')
ORDER BY id LIMIT %(limit)s

-- name: delete_batches
-- Delete batches; returns the deleted ones. (by batches_pkey)
DELETE FROM runyard.batches WHERE id = ANY (%(ids)s) RETURNING id

-- name: delete_expired
-- Delete bulk actions that ended before a time, and workers that have been silent since.
-- (small tables: scanned)
WITH bulks AS (DELETE FROM runyard.bulks WHERE finished_at < %(before)s)
DELETE FROM runyard.workers WHERE heartbeat_at < %(before)s

-- name: delete_output_below
-- Delete what was printed under all keys below some others, as are those of a run below its id; "0"
-- comes after the slash. (by run_output_pkey)
DELETE FROM runyard.run_output USING unnest(%(prefixes)s::text[]) AS prefixes (prefix)
WHERE key > prefix || '/' AND key < prefix || '0'

-- name: delete_old_output
-- Delete some of what was printed before a time, the oldest first; returns the keys of the deleted
-- pieces. (by run_output_saved and run_output_pkey)
DELETE FROM runyard.run_output WHERE (key, stream, start) IN (
    SELECT key, stream, start FROM runyard.run_output
    WHERE saved_at < %(before)s ORDER BY saved_at LIMIT %(limit)s
)
RETURNING key

-- name: overdue
-- Invocations that should have begun or ended long ago, by function and status.
-- (once a day: scanned)
SELECT function, status, count(*) AS invocations, min(due_at) AS since FROM runyard.invocations
WHERE status IN ('queued', 'claimed', 'running')
    AND due_at < runyard.now_v1() - interval '1 hour'
GROUP BY function, status ORDER BY function, status

-- name: table_health
-- Size, dead rows and last vacuum of every table of Runyard, of the project and of Dagster.
-- (the statistics: scanned)
SELECT schemaname || '.' || relname AS name, pg_total_relation_size(relid) AS bytes,
    n_live_tup AS live, n_dead_tup AS dead, greatest(last_vacuum, last_autovacuum) AS vacuumed
FROM pg_stat_user_tables WHERE schemaname IN ('runyard', 'app', 'public', 'analytics')
ORDER BY bytes DESC, name

-- name: index_health
-- Indexes that cannot be used, and large ones that have not been used since the statistics began.
-- (the statistics: scanned)
SELECT indexes.schemaname || '.' || indexes.indexrelname AS name,
    pg_relation_size(indexes.indexrelid) AS bytes, indexes.idx_scan AS scans,
    pg_index.indisvalid AS valid
FROM pg_stat_user_indexes AS indexes JOIN pg_index ON pg_index.indexrelid = indexes.indexrelid
WHERE indexes.schemaname IN ('runyard', 'app') AND (
    NOT pg_index.indisvalid OR (
        indexes.idx_scan = 0 AND NOT pg_index.indisunique
        AND pg_relation_size(indexes.indexrelid) > 10000000))
ORDER BY bytes DESC
