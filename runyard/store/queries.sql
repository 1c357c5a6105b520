-- Every statement of the engine. Parameters are %(named)s; a literal per cent sign is written twice.
-- Hot ones take arrays: one statement a batch, never one a row.

-- name: send
-- Insert a JSON array of events; gives the id of each, in order. (by events_pkey and events_idempotency_key)
SELECT id FROM runyard.send_v1(%(events)s::jsonb, %(source)s) AS id

-- name: register_functions
-- Write the functions that the code has. (by functions_pkey)
INSERT INTO runyard.functions (name, job, triggers, max_batch, priority, attempts, active, registered_at)
SELECT name, job, triggers, max_batch, priority, attempts, true, now()
FROM jsonb_to_recordset(%(functions)s::jsonb)
    AS declared (name text, job text, triggers text[], max_batch integer, priority smallint, attempts smallint)
ON CONFLICT (name) DO UPDATE SET
    job = excluded.job, triggers = excluded.triggers, max_batch = excluded.max_batch, priority = excluded.priority,
    attempts = excluded.attempts, active = true, registered_at = now()

-- name: retire_functions
-- Functions that the code no longer has get no new invocations. (a small table: scanned)
UPDATE runyard.functions SET active = false WHERE active AND NOT name = ANY (%(names)s)

-- name: functions
-- Every function with what is waiting and what failed. (by invocations_due and invocations_failed)
SELECT functions.*,
    (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND status = 'queued') AS queued,
    (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND status = 'failed') AS failed
FROM runyard.functions ORDER BY name

-- name: claim
-- Lock the due invocations of a function, highest priority first, then oldest; skip what another claim holds.
-- One index scan a priority level, so invocations that are not due yet are never walked over. (by invocations_due)
-- Those that lost two workers come alone: a poisonous event takes nobody with it.
WITH RECURSIVE levels AS (
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND status = 'queued' ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT invocations.priority FROM runyard.invocations
            WHERE function = %(function)s AND status = 'queued' AND invocations.priority < levels.priority
            ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
),
due AS (
    SELECT found.* FROM levels CROSS JOIN LATERAL (
        SELECT id, crashes FROM runyard.invocations
        WHERE function = %(function)s AND status = 'queued' AND priority = levels.priority AND due_at <= now()
        ORDER BY due_at, id LIMIT %(max_batch)s FOR UPDATE SKIP LOCKED
    ) AS found
    LIMIT %(max_batch)s
),
chosen AS (
    SELECT id FROM due WHERE crashes < 2
    UNION ALL
    (SELECT id FROM due WHERE crashes >= 2 AND NOT EXISTS (SELECT FROM due WHERE crashes < 2) LIMIT 1)
),
taken AS (
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE id IN (SELECT id FROM chosen) RETURNING id, event_id
),
batch AS (
    INSERT INTO runyard.batches (id, function, invocations)
    SELECT %(batch)s, %(function)s, array_agg(id) FROM taken HAVING count(*) > 0
)
SELECT count(*) AS size, min(event_id) AS event_id FROM taken

-- name: claim_events
-- Claim the invocations of these events for a run that was launched with them. (by invocations_event)
WITH taken AS (
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE event_id = ANY (%(events)s) AND function = %(function)s AND status = 'queued' RETURNING id
)
INSERT INTO runyard.batches (id, function, invocations)
SELECT %(batch)s, %(function)s, array_agg(id) FROM taken HAVING count(*) > 0
RETURNING cardinality(invocations) AS size

-- name: claim_replay
-- The events of a batch again, as new invocations that are claimed at once. (by batches_pkey, invocations_pkey)
WITH copies AS (
    INSERT INTO runyard.invocations (event_id, function, status, batch_id, priority, replay_of)
    SELECT event_id, function, 'claimed', %(batch)s, priority, id FROM runyard.invocations
    WHERE id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(parent)s)
    RETURNING id, function
)
INSERT INTO runyard.batches (id, function, invocations)
SELECT %(batch)s, min(function), array_agg(id) FROM copies HAVING count(*) > 0
RETURNING cardinality(invocations) AS size

-- name: claim_unfinished
-- Take up again what a batch left behind: its invocations that failed, were cancelled, or wait for another attempt.
-- (by batches_pkey, invocations_pkey)
WITH taken AS (
    UPDATE runyard.invocations
    SET status = 'claimed', batch_id = %(batch)s, finished_at = NULL, output = NULL, error = NULL
    WHERE id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(parent)s)
        AND status IN ('queued', 'failed', 'cancelled')
    RETURNING id, function
)
INSERT INTO runyard.batches (id, function, invocations)
SELECT %(batch)s, min(function), array_agg(id) FROM taken HAVING count(*) > 0
RETURNING cardinality(invocations) AS size

-- name: next_due
-- Seconds until the next invocation of a function is due, NULL for none: the first of each priority level. (by invocations_due)
WITH RECURSIVE levels AS (
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND status = 'queued' ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT invocations.priority FROM runyard.invocations
            WHERE function = %(function)s AND status = 'queued' AND invocations.priority < levels.priority
            ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
)
SELECT extract(epoch FROM min(first.due_at) - now())::float8 AS seconds
FROM levels CROSS JOIN LATERAL (
    SELECT due_at FROM runyard.invocations
    WHERE function = %(function)s AND status = 'queued' AND priority = levels.priority ORDER BY due_at, id LIMIT 1
) AS first

-- name: capacity
-- Runs that the living workers can do at a time, batches that wait for one, batches under way. (by batches_open)
SELECT
    (SELECT coalesce(sum(slots), 0) FROM runyard.workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)) AS slots,
    (SELECT count(*) FROM runyard.batches WHERE status = 'claimed') AS waiting,
    (SELECT count(*) FROM runyard.batches WHERE status = 'running') AS running

-- name: begin
-- A run takes its batch: refused (no row) when the lease is gone or another run has it. (by batches_pkey)
UPDATE runyard.batches
SET status = 'running', run_id = %(run)s, worker = %(worker)s, started_at = coalesce(started_at, now()), heartbeat_at = now()
WHERE id = %(batch)s AND (status = 'claimed' OR (status = 'running' AND run_id = %(run)s))
RETURNING id, function

-- name: begin_invocations
-- The invocations of a batch start an attempt; gives them with their events. (by invocations_pkey, events_pkey)
WITH started AS (
    UPDATE runyard.invocations
    SET status = 'running', run_id = %(run)s, attempt = attempt + (status = 'claimed')::integer, started_at = coalesce(started_at, now())
    WHERE id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(batch)s)
        AND batch_id = %(batch)s AND status IN ('claimed', 'running')
    RETURNING id, event_id, attempt, replay_of, due_at, priority, crashes
)
SELECT started.id, started.event_id, started.attempt, started.crashes, events.name, events.data, events."user" AS user_data, events.v,
    (extract(epoch FROM events.ts) * 1000)::bigint AS ts
FROM started JOIN runyard.events ON events.id = started.event_id
ORDER BY started.priority DESC, started.due_at, started.id

-- name: kept_steps
-- What the steps of these invocations have given so far, in the order in which they ended. (by steps_pkey)
SELECT invocation_id, step, output, error, attempt FROM runyard.steps WHERE invocation_id = ANY (%(invocations)s) ORDER BY finished_at

-- name: keep_steps
-- Keep results of one step; refused (no row) when the lease is gone. An output that is kept is never replaced. (by steps_pkey, batches_pkey)
WITH lease AS (
    SELECT id FROM runyard.batches WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' FOR SHARE
),
kept AS (
    INSERT INTO runyard.steps (invocation_id, step, attempt, run_id, output, error, started_at, finished_at)
    SELECT results.invocation_id, %(step)s, results.attempt, %(run)s, results.output::jsonb, results.error::jsonb,
        to_timestamp(results.started_at), to_timestamp(results.finished_at)
    FROM lease CROSS JOIN unnest(
        %(invocations)s::bigint[], %(attempts)s::smallint[], %(outputs)s::text[], %(errors)s::text[], %(started)s::float8[], %(finished)s::float8[]
    ) AS results (invocation_id, attempt, output, error, started_at, finished_at)
    ON CONFLICT (invocation_id, step) DO UPDATE SET
        attempt = excluded.attempt, run_id = excluded.run_id, output = excluded.output, error = excluded.error,
        started_at = excluded.started_at, finished_at = excluded.finished_at
    WHERE steps.error IS NOT NULL
)
SELECT id FROM lease

-- name: settle
-- Write the outcome of every invocation of a batch and end its lease; refused (no row) when the lease is gone.
-- The lease alone is the fence: a condition on invocations.batch_id here makes the planner think of one row, and scan the table.
-- (by batches_pkey, invocations_pkey)
WITH lease AS (
    UPDATE runyard.batches SET status = 'finished', finished_at = now()
    WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' RETURNING id
),
settled AS (
    UPDATE runyard.invocations
    SET status = outcome.status, batch_id = NULL, output = outcome.output::jsonb, error = outcome.error::jsonb, crashes = 0,
        due_at = CASE WHEN outcome.status = 'queued' THEN now() + make_interval(secs => outcome.delay) ELSE due_at END,
        finished_at = CASE WHEN outcome.status = 'queued' THEN NULL ELSE now() END
    FROM unnest(
        %(invocations)s::bigint[], %(statuses)s::text[], %(delays)s::float8[], %(outputs)s::text[], %(errors)s::text[]
    ) AS outcome (invocation_id, status, delay, output, error)
    WHERE invocations.id = outcome.invocation_id AND invocations.id = ANY (%(invocations)s::bigint[]) AND EXISTS (SELECT FROM lease)
)
SELECT id, runyard.wake_v1('') FROM lease

-- name: heartbeat
-- Renew the leases of these batches; gives those that are still held, and whether their run was told to stop. (by batches_pkey)
UPDATE runyard.batches SET heartbeat_at = now()
WHERE id = ANY (%(batches)s) AND status = 'running'
RETURNING id, cancel_requested_at IS NOT NULL AS cancelled

-- name: heartbeat_worker
-- A worker says that it is alive. (by workers_pkey)
INSERT INTO runyard.workers (name, host, pid, slots) VALUES (%(name)s, %(host)s, %(pid)s, %(slots)s)
ON CONFLICT (name) DO UPDATE SET host = excluded.host, pid = excluded.pid, slots = excluded.slots, heartbeat_at = now(),
    started_at = CASE WHEN workers.pid = excluded.pid THEN workers.started_at ELSE now() END

-- name: forget_worker
-- A worker that stops in order is known no more. (by workers_pkey)
DELETE FROM runyard.workers WHERE name = %(name)s AND pid = %(pid)s

-- name: workers
-- The workers that were heard of within a day, and how long ago. (a small table: scanned)
SELECT name, host, pid, slots, extract(epoch FROM now() - heartbeat_at)::float8 AS silent FROM runyard.workers
WHERE heartbeat_at > now() - interval '1 day' ORDER BY name

-- name: overdue_batches
-- Batches whose worker fell silent, or whose run never began though a slot was free for it; one reaper at a time.
-- A batch that waits in the broker behind others is left alone: all slots are busy then. (by batches_open)
WITH alive AS (
    SELECT (SELECT coalesce(sum(slots), 0) FROM runyard.workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)) AS slots,
        (SELECT count(*) FROM runyard.batches WHERE status = 'running' AND heartbeat_at > now() - make_interval(secs => %(lease)s)) AS running
)
SELECT id, function, status, run_id, cancel_requested_at IS NOT NULL AS cancelled FROM runyard.batches
WHERE status IN ('claimed', 'running') AND heartbeat_at < now() - make_interval(secs => %(lease)s)
    AND (status = 'running' OR cancel_requested_at IS NOT NULL OR (SELECT slots = 0 OR slots > running FROM alive))
ORDER BY heartbeat_at LIMIT 100

-- name: release
-- Take the lease away and end or requeue what it held: 'queued' or 'cancelled'; those that are out of attempts fail.
-- `counted` makes an attempt of a run that failed before it began its batch, `crashed` adds one to the workers that were lost.
-- No row when another was first, or the worker came back. (by batches_pkey, invocations_pkey)
WITH lease AS (
    UPDATE runyard.batches SET status = 'lost', finished_at = now()
    WHERE id = %(batch)s AND status = %(expected)s AND (%(force)s OR heartbeat_at < now() - make_interval(secs => %(lease)s))
    RETURNING id, function, invocations
),
held AS (
    SELECT invocations.id,
        attempt + (%(counted)s AND status = 'claimed')::integer AS attempts_begun
    FROM runyard.invocations
    WHERE invocations.id = ANY (SELECT unnest(invocations) FROM lease) AND batch_id = %(batch)s AND status IN ('claimed', 'running')
),
freed AS (
    UPDATE runyard.invocations SET
        batch_id = NULL,
        attempt = attempts_begun,
        crashes = crashes + (%(crashed)s AND %(status)s = 'queued')::integer,
        status = CASE WHEN %(status)s = 'queued' AND attempts_begun >= %(attempts)s THEN 'failed' ELSE %(status)s END,
        due_at = CASE WHEN %(status)s = 'queued' THEN now() + make_interval(secs => %(delay)s) ELSE due_at END,
        error = coalesce(%(error)s::jsonb, error),
        finished_at = CASE WHEN %(status)s = 'queued' AND attempts_begun < %(attempts)s THEN NULL ELSE now() END
    FROM held WHERE invocations.id = held.id
    RETURNING invocations.id
)
SELECT function, (SELECT count(*) FROM freed) AS size, runyard.wake_v1('') FROM lease

-- name: request_cancel
-- Tell the run of a batch to stop; gives the batch where it is still open. (by batches_pkey, batches_run)
UPDATE runyard.batches SET cancel_requested_at = now()
WHERE (id = %(batch)s OR run_id = %(run)s) AND status IN ('claimed', 'running')
RETURNING id, function, status, true AS cancelled

-- name: batch_of_run
-- The batch that a run works on, or was launched for. (by batches_run, batches_pkey)
SELECT id, function, status, cardinality(invocations) AS size FROM runyard.batches
WHERE run_id = %(run)s OR (id = %(batch)s AND run_id IS NULL)
ORDER BY claimed_at DESC LIMIT 1

-- name: recent_events
-- The newest events, with their invocations and steps as JSON. (by events_received_at, events_pkey, invocations_event, steps_pkey)
SELECT events.id, events.name, events.data, events.source, events.ts, events.received_at, coalesce(found.invocations, '[]'::jsonb) AS invocations
FROM (
    SELECT * FROM runyard.events
    WHERE (%(id)s::text IS NULL OR id = %(id)s) AND (%(name)s::text IS NULL OR name = %(name)s)
    ORDER BY received_at DESC, id DESC LIMIT %(limit)s
) AS events
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
        'id', invocations.id, 'function', invocations.function, 'status', invocations.status, 'attempt', invocations.attempt,
        'due_at', invocations.due_at, 'run_id', invocations.run_id, 'output', invocations.output, 'error', invocations.error, 'replay_of', invocations.replay_of,
        'steps', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'step', steps.step, 'attempt', steps.attempt, 'output', steps.output, 'error', steps.error,
            'milliseconds', round((extract(epoch FROM steps.finished_at - steps.started_at) * 1000)::numeric, 1)
        ) ORDER BY steps.finished_at, steps.started_at), '[]') FROM runyard.steps WHERE steps.invocation_id = invocations.id)
    ) ORDER BY invocations.id) AS invocations
    FROM runyard.invocations WHERE invocations.event_id = events.id
) AS found ON true
ORDER BY events.received_at DESC, events.id DESC

-- name: runs_of_events
-- The runs that worked on these events. (by invocations_event)
SELECT DISTINCT run_id FROM runyard.invocations WHERE event_id = ANY (%(events)s) AND run_id IS NOT NULL
