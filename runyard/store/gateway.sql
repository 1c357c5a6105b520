-- The statements of the HTTP API: keys, history, and what many clients watch. As in queries.sql,
-- parameters are %(named)s.

-- name: send_shared
-- As `send`, for many requests at once: all ids in one row.
-- (by events_pkey and events_idempotency_key)
SELECT ARRAY(SELECT id FROM runyard.send_v1(%(events)s::jsonb, 'http') AS id) AS ids

-- name: create_key
-- Store a new key by its hash. (by keys_pkey and keys_hash_key)
INSERT INTO runyard.keys (
    id, hash, hint, name, environment, scopes, events, tenant, per_second, expires_at)
VALUES (%(id)s, %(hash)s, %(hint)s, %(name)s, %(environment)s, %(scopes)s, %(events)s, %(tenant)s,
    %(per_second)s, %(expires_at)s)

-- name: revoke_key
-- Revoke a key by its id or name. (a small table: scanned)
UPDATE runyard.keys SET revoked_at = now()
WHERE (id = %(given)s OR name = %(given)s) AND revoked_at IS NULL RETURNING id, name

-- name: keys
-- Every key. (a small table: scanned)
SELECT id, hint, name, environment, scopes, events, tenant, per_second, created_at, expires_at,
    used_at, revoked_at
FROM runyard.keys ORDER BY id DESC

-- name: valid_keys
-- The keys that an environment accepts. (a small table: scanned)
SELECT id, name, hash, scopes, events, tenant, per_second, expires_at FROM runyard.keys
WHERE environment = %(environment)s AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > now())

-- name: mark_keys_used
-- Record that keys were used, to the minute. (by keys_pkey)
UPDATE runyard.keys SET used_at = now()
WHERE id = ANY (%(ids)s) AND (used_at IS NULL OR used_at < now() - interval '1 minute')

-- name: events_page
-- A page of events, newest first, after the last one of the previous page: up to a number of events
-- and of bytes, but at least one. (by events_received_at, or events_name_received)
SELECT id, idempotency_key, name, data, "user", v, ts, received_at, source, caused_by, target,
    trace, meta, found
FROM (
    SELECT page.*, count(*) OVER () AS found,
        sum(octet_length(data::text)) OVER (ORDER BY received_at DESC, id DESC)
        - octet_length(data::text) AS before
    FROM (
        SELECT id, idempotency_key, name, data, "user", v,
            floor(extract(epoch FROM ts) * 1000)::bigint AS ts, received_at, source, caused_by,
            target, trace, meta
        FROM runyard.events
        WHERE (%(name)s::text IS NULL OR name = %(name)s)
            AND (%(source)s::text IS NULL OR source = %(source)s)
            AND (%(names)s::text[] IS NULL OR name LIKE ANY (%(names)s))
            AND (%(after)s::timestamptz IS NULL OR received_at >= %(after)s)
            AND (%(before)s::timestamptz IS NULL OR received_at < %(before)s)
            AND (%(cursor_at)s::timestamptz IS NULL
                OR (received_at, id) < (%(cursor_at)s, %(cursor_id)s))
        ORDER BY received_at DESC, id DESC LIMIT %(limit)s
    ) AS page
) AS sized
WHERE before < %(bytes)s ORDER BY received_at DESC, id DESC

-- name: event
-- One event. (by events_pkey)
SELECT id, idempotency_key, name, data, "user", v,
    floor(extract(epoch FROM ts) * 1000)::bigint AS ts, received_at, source, caused_by, target,
    trace, meta
FROM runyard.events WHERE id = %(id)s

-- name: invocations_page
-- A page of a function's invocations, newest first, limited in bytes as `events_page`.
-- (by invocations_function, events_pkey)
SELECT id, event_id, function, status, attempt, priority, created_at, due_at, started_at,
    finished_at, run_id, replay_of, leader_id, output, error, dismissed_at, found
FROM (
    SELECT page.*, count(*) OVER () AS found,
        sum(coalesce(octet_length(output::text), 0)) OVER (ORDER BY created_at DESC, id DESC)
        - coalesce(octet_length(output::text), 0) AS before
    FROM (
        SELECT id, event_id, function, status, attempt, priority, created_at, due_at, started_at,
            finished_at, run_id, replay_of, leader_id, CASE
                WHEN leader_id <> id THEN runyard.output_of_v1(leader_id) ELSE output END AS output,
            error, dismissed_at
        FROM runyard.invocations
        WHERE function = %(function)s AND (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(names)s::text[] IS NULL OR EXISTS (
                SELECT FROM runyard.events
                WHERE events.id = event_id AND events.name LIKE ANY (%(names)s)))
            AND (%(after)s::timestamptz IS NULL OR created_at >= %(after)s)
            AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)
            AND (%(cursor_at)s::timestamptz IS NULL
                OR (created_at, id) < (%(cursor_at)s, %(cursor_id)s::bigint))
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
    ) AS page
) AS sized
WHERE before < %(bytes)s ORDER BY created_at DESC, id DESC

-- name: invocations_in_full
-- The invocations of events, or one by its id, with steps, waits and the latest progress.
-- (by invocations_event, invocations_pkey, steps_pkey, waits_invocation_id_step_key,
-- progress_invocation)
SELECT id, event_id, function, status, attempt, priority, created_at, due_at, started_at,
    finished_at, run_id, replay_of, leader_id, CASE
        WHEN leader_id <> id THEN runyard.output_of_v1(leader_id) ELSE output END AS output, error,
    dismissed_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'step', steps.step, 'tries', steps.tries, 'output', steps.output,
            'error', steps.error, 'run_id', steps.run_id, 'started_at', steps.started_at,
            'finished_at', steps.finished_at) ORDER BY steps.number), '[]')
     FROM runyard.steps WHERE steps.invocation_id = invocations.id) AS steps,
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'step', waits.step, 'kind', waits.kind, 'event', waits.event,
            'signal', waits.signal, 'until', waits.expires_at) ORDER BY waits.id), '[]')
     FROM runyard.waits
     WHERE waits.invocation_id = invocations.id AND waits.kind <> 'cancel'
        AND waits.resolved_at IS NULL AND invocations.status IN ('sleeping', 'waiting')) AS waits,
    (SELECT jsonb_build_object(
            'step', progress.step, 'percent', progress.percent, 'text', progress.text,
            'at', progress.at)
     FROM runyard.progress
     WHERE progress.invocation_id = invocations.id AND progress.written IS NULL
     ORDER BY progress.id DESC LIMIT 1) AS progress
FROM runyard.invocations
WHERE event_id = ANY (%(events)s::text[]) OR id = %(invocation)s ORDER BY id

-- name: logs_page
-- A page of an invocation's logs, oldest first, limited in bytes as `events_page`.
-- (by step_logs_pkey)
SELECT id, step, run_id, attempt, started_at, lines, dropped, found
FROM (
    SELECT page.*, count(*) OVER () AS found,
        sum(octet_length(lines::text)) OVER (ORDER BY started_at, id)
        - octet_length(lines::text) AS before
    FROM (
        SELECT id, step, run_id, attempt, started_at, lines, dropped
        FROM runyard.step_logs
        WHERE invocation_id = %(invocation)s AND (%(step)s::text IS NULL OR step = %(step)s)
            AND (%(cursor_at)s::timestamptz IS NULL
                OR (started_at, id) > (%(cursor_at)s, %(cursor_id)s::bigint))
        ORDER BY started_at, id LIMIT %(limit)s
    ) AS page
) AS sized
WHERE before < %(bytes)s ORDER BY started_at, id

-- name: invocation_status
-- The status of an invocation, and the name of its event. (by invocations_pkey, events_pkey)
SELECT id, status, (SELECT name FROM runyard.events WHERE events.id = event_id) AS event
FROM runyard.invocations WHERE id = %(invocation)s

-- name: active_function
-- The triggers of a function that the code has. (by functions_pkey)
SELECT triggers FROM runyard.functions WHERE name = %(function)s AND active

-- name: open_events
-- Those of these events that have an invocation which is not final. (by invocations_event)
SELECT DISTINCT event_id AS id FROM runyard.invocations
WHERE event_id = ANY (%(events)s::text[])
    AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting', 'grouped')

-- name: past_snapshot
-- A snapshot as text, if it is not in the future; an error if it is not a snapshot.
-- (nothing scanned)
SELECT given FROM (SELECT %(given)s::pg_snapshot AS given) AS requested
WHERE pg_snapshot_xmax(given) <= pg_snapshot_xmax(pg_current_snapshot())

-- name: changes
-- What has changed in invocations, each since a snapshot of its own (so that nothing is missed that
-- commits late), and the snapshot of this look. (by invocations_pkey, steps_pkey,
-- progress_invocation)
SELECT watched.number, pg_current_snapshot()::text AS moment,
    invocations.status IN ('succeeded', 'failed', 'cancelled', 'skipped') AS final,
    CASE WHEN runyard.written_after_v1(invocations.xmin, watched.since) THEN jsonb_build_object(
        'id', invocations.id, 'event_id', invocations.event_id,
        'function', invocations.function, 'status', invocations.status,
        'attempt', invocations.attempt, 'run_id', invocations.run_id,
        'due_at', invocations.due_at, 'output', CASE
            WHEN invocations.leader_id <> invocations.id
                THEN runyard.output_of_v1(invocations.leader_id)
            ELSE invocations.output END,
        'error', invocations.error)
        END AS state,
    (SELECT jsonb_agg(jsonb_build_object(
            'step', steps.step, 'tries', steps.tries, 'output', steps.output,
            'error', steps.error, 'started_at', steps.started_at,
            'finished_at', steps.finished_at) ORDER BY steps.number)
     FROM runyard.steps
     WHERE steps.invocation_id = watched.invocation
        AND runyard.written_after_v1(steps.xmin, watched.since)) AS steps,
    (SELECT jsonb_agg(jsonb_build_object(
            'step', progress.step, 'percent', progress.percent, 'text', progress.text,
            'at', progress.at)
            || CASE WHEN written IS NULL THEN '{}' ELSE jsonb_build_object(
                'written', written, 'position', position) END ORDER BY progress.id)
     FROM runyard.progress
     WHERE progress.invocation_id = watched.invocation AND (
        watched.since IS NULL OR NOT pg_visible_in_snapshot(progress.xid, watched.since))
    ) AS progress
FROM jsonb_to_recordset(%(watched)s::jsonb)
    AS watched (number integer, invocation bigint, since pg_snapshot)
JOIN runyard.invocations ON invocations.id = watched.invocation

-- name: report_progress
-- Record the progress that a step reports, as long as its run has the batch. (by batches_pkey)
INSERT INTO runyard.progress (invocation_id, step, percent, text)
SELECT %(invocation)s, %(step)s, %(percent)s, %(text)s
FROM runyard.batches
WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running'

-- name: record_written
-- Record what a step has written for invocations, each with what was reported last, as long as its
-- run has the batch. (by batches_pkey)
INSERT INTO runyard.progress (invocation_id, step, percent, text, written, position)
SELECT pieces.invocation_id, %(step)s, pieces.percent, pieces.text, pieces.written, pieces.position
FROM runyard.batches CROSS JOIN unnest(
    %(invocations)s::bigint[], %(percents)s::real[], %(texts)s::text[], %(written)s::text[],
    %(positions)s::integer[]
) AS pieces (invocation_id, percent, text, written, position)
WHERE batches.id = %(batch)s AND batches.run_id = %(run)s AND batches.status = 'running'

-- name: written_texts
-- What each step of an invocation has written in its last attempt. A piece whose commit was in
-- doubt was stored again at the same position, with what came after it. (by progress_invocation)
SELECT step, string_agg(written, '' ORDER BY position) AS text FROM (
    SELECT DISTINCT ON (step, position) id, step, position, written FROM (
        SELECT id, step, position, written,
            max(id) FILTER (WHERE position = 0) OVER (PARTITION BY step) AS start
        FROM runyard.progress WHERE invocation_id = %(invocation)s AND written IS NOT NULL
    ) AS pieces
    WHERE id >= start ORDER BY step, position, id DESC
) AS latest
GROUP BY step ORDER BY min(id)

-- name: progress_of
-- All reports of an invocation; for tests. (by progress_invocation)
SELECT percent, text FROM runyard.progress
WHERE invocation_id = %(invocation)s AND written IS NULL ORDER BY id

-- name: publish
-- Publish a message to topics of a channel, and delete a few messages that are too old for anybody.
-- (by messages_pkey)
WITH old AS (
    DELETE FROM runyard.messages WHERE id IN (
        SELECT id FROM runyard.messages
        WHERE id < (SELECT min(id) + 200 FROM runyard.messages)
            AND at < runyard.now_v1() - interval '10 seconds'
        FOR UPDATE SKIP LOCKED)
)
INSERT INTO runyard.messages (channel, topic, message)
SELECT %(channel)s, published.topic, published.message
FROM unnest(%(topics)s::text[], %(messages)s::text[]) AS published (topic, message)

-- name: published
-- The snapshot of this look, and the messages to these channels since an earlier one, in the order
-- in which they were published. (by messages_xid)
SELECT pg_current_snapshot()::text AS moment, messages.channel, messages.topic, messages.message
FROM (VALUES (%(since)s::pg_snapshot)) AS looked (since)
LEFT JOIN runyard.messages ON messages.xid >= pg_snapshot_xmin(looked.since)
    AND NOT pg_visible_in_snapshot(messages.xid, looked.since)
    AND messages.channel = ANY (%(channels)s::text[])
ORDER BY messages.id

-- name: replay_event
-- Replay the latest invocation of each function for an event, if it is final.
-- (by invocations_event, invocations_pkey)
SELECT runyard.replay_v1(ARRAY(
    SELECT max(id) FROM runyard.invocations
    WHERE event_id = %(event)s AND (%(function)s::text IS NULL OR function = %(function)s)
    GROUP BY function
), %(keep)s) AS id

-- name: queues
-- By function and status: how many invocations are waiting, and for how many seconds the first of
-- them has been due.
-- (by invocations_due, invocations_lane, invocations_arrived and invocations_delayed)
SELECT function, status, count(*) AS count,
    greatest(0, extract(epoch FROM runyard.now_v1() - min(due_at)))::float8 AS overdue
FROM (
    SELECT function, status, due_at FROM runyard.invocations
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
    UNION ALL
    SELECT function, status, due_at FROM runyard.invocations WHERE lane IS NOT NULL
    UNION ALL
    SELECT function, status, due_at FROM runyard.invocations
    WHERE NOT admitted AND status = 'queued'
    UNION ALL
    SELECT function, status, due_at FROM runyard.invocations
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL
        AND admitted
) AS suspended GROUP BY function, status

-- name: function_states
-- For every function whether it is paused, and how many dead letters it has.
-- (by invocations_failed)
SELECT name, paused_at IS NOT NULL AS paused, (
    SELECT count(*) FROM runyard.invocations
    WHERE function = functions.name AND status = 'failed' AND dismissed_at IS NULL) AS failed
FROM runyard.functions

-- name: open_batch_counts
-- By function and status: how many batches are open, with how many invocations. (by batches_open)
SELECT function, status, count(*) AS batches, sum(cardinality(invocations)) AS invocations
FROM runyard.batches WHERE status IN ('claimed', 'running') GROUP BY function, status

-- name: bulk_status
-- A bulk action, not locked. (by bulks_pkey)
SELECT id, action, selection, total, done, started_at, finished_at
FROM runyard.bulks WHERE id = %(id)s
