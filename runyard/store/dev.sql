-- The statements of the dev page. As in queries.sql, parameters are %(named)s.

-- name: search_events
-- Of the next so many events after a cursor, newest first, those that match a search; `unmatched`
-- means an event without invocations. The engine's own events are left out if they started nothing,
-- unless `internal`.
-- The inner limit bounds the work, whatever the search is. No EXISTS: the planner would read all
-- invocations into a hash table for it.
-- (by events_received_at or events_name_received, invocations_event)
SELECT id, name, source, received_at, caused_by FROM (
    SELECT * FROM runyard.events
    WHERE (%(name)s::text IS NULL OR name = %(name)s)
        AND (%(ids)s::text[] IS NULL OR id = ANY (%(ids)s))
        AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
        AND (%(cursor_at)s::timestamptz IS NULL
            OR (received_at, id) < (%(cursor_at)s, %(cursor_id)s))
    ORDER BY received_at DESC, id DESC LIMIT %(chunk)s
) AS looked
WHERE (%(internal)s OR source <> 'engine' OR (
        SELECT id FROM runyard.invocations WHERE event_id = looked.id LIMIT 1) IS NOT NULL)
    AND (%(status)s::text IS NULL
        OR %(status)s <> 'unmatched' AND (
            SELECT id FROM runyard.invocations
            WHERE event_id = looked.id AND status = %(status)s LIMIT 1) IS NOT NULL
        OR %(status)s = 'unmatched' AND source NOT IN ('engine', 'step') AND (
            SELECT id FROM runyard.invocations WHERE event_id = looked.id LIMIT 1) IS NULL)
    AND (%(filter)s::text IS NULL OR runyard.filter_matches_v1(
        runyard.document_v1(looked.id, name, data, "user", v, ts), %(filter)s::jsonpath))
ORDER BY received_at DESC, id DESC LIMIT %(limit)s

-- name: search_events_end
-- The last event that `search_events` looked at; no row if it came to the end.
-- (by events_received_at or events_name_received)
SELECT received_at, id FROM runyard.events
WHERE (%(name)s::text IS NULL OR name = %(name)s)
    AND (%(ids)s::text[] IS NULL OR id = ANY (%(ids)s))
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
    AND (%(cursor_at)s::timestamptz IS NULL
        OR (received_at, id) < (%(cursor_at)s, %(cursor_id)s))
ORDER BY received_at DESC, id DESC OFFSET %(chunk)s - 1 LIMIT 1

-- name: events_by_any_id
-- The events that an id leads to: an event's own, the one given by its sender, an invocation's, a
-- run's. (by events_pkey, events_idempotency_key, invocations_pkey, invocations_leader,
-- batches_run)
SELECT id FROM runyard.events WHERE id = %(given)s
UNION SELECT id FROM runyard.events WHERE idempotency_key = %(given)s
UNION SELECT event_id FROM runyard.invocations WHERE id = %(number)s::bigint
UNION (
    SELECT event_id
    FROM runyard.batches JOIN runyard.invocations ON invocations.id = ANY (batches.invocations)
    WHERE batches.run_id = %(given)s LIMIT 1000)
UNION (
    SELECT event_id
    FROM runyard.batches
    JOIN runyard.invocations ON invocations.leader_id = ANY (batches.invocations)
    WHERE batches.run_id = %(given)s LIMIT 1000)

-- name: invocation_summaries
-- The first invocations of each of these events, with how many there are. (by invocations_event)
SELECT first.* FROM unnest(%(events)s::text[]) AS listed (id) CROSS JOIN LATERAL (
    SELECT id, event_id, function, status, run_id, replay_of,
        left(nullif(concat_ws(': ',
            CASE WHEN status NOT IN ('skipped', 'cancelled') THEN error->>'type' END,
            nullif(error->>'message', '')), ''), 300) AS error,
        round(extract(epoch FROM finished_at - created_at)::numeric, 2)::float8 AS seconds,
        count(*) OVER () AS among
    FROM runyard.invocations WHERE event_id = listed.id ORDER BY id LIMIT %(each)s
) AS first ORDER BY first.id

-- name: causing_invocation
-- The invocation whose step has sent an event. (by invocations_pkey)
SELECT id, function, event_id FROM runyard.invocations WHERE id = %(invocation)s

-- name: caused_events
-- What the steps of an event's invocations have sent, and what that has caused in turn, level by
-- level. (by invocations_event, events_caused_by)
WITH RECURSIVE tree AS (
    SELECT events.id, events.name, events.received_at, events.caused_by, 1 AS level
    FROM runyard.invocations JOIN runyard.events ON events.caused_by = invocations.id
    WHERE invocations.event_id = %(event)s
    UNION ALL
    SELECT events.id, events.name, events.received_at, events.caused_by, level + 1
    FROM tree
    JOIN runyard.invocations ON invocations.event_id = tree.id
    JOIN runyard.events ON events.caused_by = invocations.id
    WHERE level < 20
)
SELECT id, name, received_at, caused_by FROM tree LIMIT %(limit)s

-- name: run_segments
-- What an invocation did in runs that it left unfinished, in order. (by run_segments_invocation)
SELECT run_id, status, error, ended_at FROM runyard.run_segments
WHERE invocation_id = %(invocation)s ORDER BY id

-- name: latest_logs
-- The latest logs of an invocation, as many as fit into a number of bytes. (by step_logs_pkey)
SELECT step, run_id, attempt, lines, dropped FROM (
    SELECT latest.*, sum(octet_length(lines::text)) OVER (ORDER BY id DESC) AS until
    FROM (
        SELECT id, step, run_id, attempt, lines, dropped FROM runyard.step_logs
        WHERE invocation_id = %(invocation)s ORDER BY id DESC LIMIT %(limit)s
    ) AS latest
) AS sized
WHERE until < %(bytes)s ORDER BY id

-- name: batches_of_runs
-- When the batches of runs were claimed and started, and by which worker. (by batches_run)
SELECT DISTINCT ON (run_id) run_id, worker, claimed_at, started_at,
    cardinality(invocations) AS size
FROM runyard.batches WHERE run_id = ANY (%(runs)s) ORDER BY run_id, claimed_at DESC

-- name: group_of
-- The events that an invocation is called with together, in the order in which they came, by the
-- invocation of each. (by invocations_leader, events_pkey)
SELECT invocations.id, events.id AS event_id, events.name
FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE leader_id = %(leader)s ORDER BY invocations.id LIMIT %(limit)s

-- name: replays_of
-- The invocations that replay one. (by invocations_event)
SELECT id, status FROM runyard.invocations
WHERE event_id = %(event)s AND replay_of = %(invocation)s ORDER BY id LIMIT 20

-- name: latest_progress
-- The latest progress of each step of an invocation. (by progress_invocation)
SELECT DISTINCT ON (step) step, percent, text FROM (
    SELECT * FROM runyard.progress WHERE invocation_id = %(invocation)s AND written IS NULL
    ORDER BY id DESC LIMIT 100
) AS latest ORDER BY step, id DESC

-- name: blockers
-- What may block an invocation: its function, its keys, what open batches hold of the function's
-- limits, and the clock of its throttle. (by invocations_pkey, functions_pkey,
-- failed_launches_pkey, batches_open, flow_control_state_pkey)
SELECT invocations.status, invocations.attempt, invocations.crashes, invocations.due_at,
    invocations.keys, invocations.admitted, invocations.cancel_requested_at,
    invocations.started_at IS NOT NULL AS begun, runyard.now_v1() AS now, functions.active,
    functions.paused_at, functions.flow, functions.key_paths, functions.max_batch,
    CASE WHEN failed_launches.error->>'type' = 'LaunchFailed'
        THEN failed_launches.error->>'message'
        ELSE 'its run failed before it began (' || (failed_launches.error->>'type') || ': '
            || (failed_launches.error->>'message') || ')'
    END AS unlaunched,
    failed_launches.until AS held_until,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('scope', scope, 'key', key, 'n', n)), '[]')
     FROM (
        SELECT slot.scope, slot.key, sum(slot.n) AS n
        FROM runyard.batches
        CROSS JOIN LATERAL jsonb_to_recordset(batches.slots)
            AS slot (scope text, key text, n integer)
        WHERE batches.status IN ('claimed', 'running') AND batches.slots IS NOT NULL
        GROUP BY 1, 2
    ) AS held) AS held,
    (SELECT until FROM runyard.flow_control_state AS state
     WHERE state.id = concat_ws(chr(31), 'throttle', invocations.function, coalesce(
        invocations.keys[(functions.flow->'throttle'->>'key')::integer], ''))) AS throttled_until
FROM runyard.invocations
LEFT JOIN runyard.functions ON functions.name = invocations.function
LEFT JOIN runyard.failed_launches ON failed_launches.function = invocations.function
WHERE invocations.id = %(invocation)s

-- name: functions_started
-- The event names that start each function, apart from wildcards. (a small table: scanned)
SELECT name, exact FROM runyard.functions WHERE active

-- name: functions_by_event
-- The functions that events of these names start, filters and conditions aside.
-- (by triggers_function; runyard.functions is a small table: scanned)
SELECT events.name AS event, array_agg(functions.name ORDER BY functions.name) AS functions
FROM unnest(%(events)s::text[]) AS events (name)
JOIN runyard.functions ON active AND EXISTS (
    SELECT FROM runyard.triggers
    WHERE triggers.function = functions.name AND CASE WHEN wildcard
        THEN events.name LIKE triggers.event ELSE events.name = triggers.event END)
GROUP BY events.name

-- name: function_stats
-- How each function's invocations of the last hour ended, up to a number of the newest; `p95` is
-- the time from the event to the end, in seconds. (by functions_pkey, invocations_function)
SELECT functions.name, lately.* FROM runyard.functions CROSS JOIN LATERAL (
    SELECT count(*) AS invocations, count(*) FILTER (WHERE status = 'failed') AS failed,
        percentile_cont(0.95)
            WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - created_at))
            FILTER (WHERE status IN ('succeeded', 'failed')) AS p95
    FROM (
        SELECT status, created_at, finished_at FROM runyard.invocations
        WHERE function = functions.name AND created_at > runyard.now_v1() - interval '1 hour'
        ORDER BY created_at DESC, id DESC LIMIT %(most)s
    ) AS newest
) AS lately

-- name: minute_stats
-- What happened in each of the last so many spans of some minutes, the oldest first, for each of
-- these functions; the function '' is all of them. Spans in which nothing happened are missing.
-- (by minute_stats_pkey)
SELECT charted.function, spans.number, spans.starts, spans.waited, spans.ended, spans.failed
FROM unnest(%(functions)s::text[]) AS charted (function) CROSS JOIN LATERAL (
    SELECT floor(extract(epoch FROM minute - %(since)s::timestamptz)
            / (60 * %(minutes)s::integer))::integer AS number,
        sum(starts)::float8 AS starts, sum(waited) AS waited, sum(ended)::float8 AS ended,
        sum(failed)::float8 AS failed
    FROM runyard.minute_stats
    WHERE function = charted.function AND minute >= %(since)s
        AND minute < %(since)s::timestamptz
            + %(spans)s::integer * %(minutes)s::integer * interval '1 minute'
    GROUP BY 1
) AS spans
ORDER BY 1, 2

-- name: latest_of_function
-- A function's newest invocations, with why they failed. (by invocations_function)
SELECT id, status, created_at, run_id,
    left(nullif(concat_ws(': ',
        CASE WHEN status NOT IN ('skipped', 'cancelled') THEN error->>'type' END,
        nullif(error->>'message', '')), ''), 300) AS error,
    round(extract(epoch FROM finished_at - created_at)::numeric, 2)::float8 AS seconds
FROM runyard.invocations WHERE function = %(function)s
ORDER BY created_at DESC, id DESC LIMIT %(limit)s

-- name: open_invocations
-- Of the newest invocations of a function those that are not final, with their event's data and
-- their latest progress. (by invocations_function, events_pkey and progress_invocation)
SELECT newest.id, newest.function, newest.status, events.data, latest.percent, latest.text
FROM (
    SELECT * FROM runyard.invocations WHERE function = %(function)s
    ORDER BY created_at DESC, id DESC LIMIT 200
) AS newest
JOIN runyard.events ON events.id = newest.event_id
LEFT JOIN LATERAL (
    SELECT * FROM runyard.progress WHERE invocation_id = newest.id AND written IS NULL
    ORDER BY id DESC LIMIT 1
) AS latest ON true
WHERE newest.status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting', 'grouped')
ORDER BY newest.id DESC LIMIT 20

-- name: recent_event_count
-- Events of the last ten seconds. (by events_received_at)
SELECT count(*) AS events FROM runyard.events
WHERE received_at > runyard.now_v1() - interval '10 seconds'

-- name: open_batches
-- The batches that are claimed or running, the oldest first. (by batches_open)
SELECT function, status, run_id, worker, cardinality(invocations) AS size, started_at
FROM runyard.batches WHERE status IN ('claimed', 'running') ORDER BY claimed_at LIMIT 50
