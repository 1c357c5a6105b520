-- Every statement of the engine. Parameters are %(named)s; a literal per cent sign is doubled.
-- Hot statements take arrays: one statement per batch, never one per row.

-- name: send
-- Insert a JSON array of events; returns the id of each, in order.
-- (by events_pkey and events_idempotency_key)
SELECT id FROM runyard.send_v1(%(events)s::jsonb, %(source)s) AS id

-- name: schema_revision
-- What the last migration of the engine's schema has recorded. (by schemas_pkey)
SELECT revision, oldest_code, version FROM runyard.schemas WHERE name = 'runyard'

-- name: register_functions
-- Write the functions that the code has. (by functions_pkey)
INSERT INTO runyard.functions (
    name, job, triggers, exact, has_patterns, max_batch, priority, attempts, delays, jitter, flow,
    key_paths, uses_lanes, needs_admission, location, active, registered_at)
SELECT name, job, triggers, exact, has_patterns, max_batch, priority, attempts, delays, jitter,
    flow, key_paths, uses_lanes, needs_admission, %(location)s, true, now()
FROM jsonb_to_recordset(%(functions)s::jsonb) AS declared (
    name text, job text, triggers text[], exact text[], has_patterns boolean, max_batch integer,
    priority smallint, attempts smallint, delays float8[], jitter float8, flow jsonb,
    key_paths jsonb, uses_lanes boolean, needs_admission boolean)
ON CONFLICT (name) DO UPDATE SET
    job = excluded.job, triggers = excluded.triggers, exact = excluded.exact,
    has_patterns = excluded.has_patterns, max_batch = excluded.max_batch,
    priority = excluded.priority, attempts = excluded.attempts, delays = excluded.delays,
    jitter = excluded.jitter, flow = excluded.flow,
    key_paths = excluded.key_paths, uses_lanes = excluded.uses_lanes,
    needs_admission = excluded.needs_admission, location = excluded.location, active = true,
    registered_at = now()

-- name: invoked_function
-- What starts a function, if there is one now, and whether an application has it.
-- (by functions_pkey)
SELECT triggers, coalesce(location, '') LIKE 'app %%' AS in_app
FROM runyard.functions WHERE name = %(name)s AND active

-- name: retry_of
-- When failed attempts of a function are repeated. (by functions_pkey)
SELECT attempts, delays, jitter FROM runyard.functions WHERE name = %(function)s

-- name: register_triggers
-- Replace the triggers of these functions. (by triggers_function)
WITH declared AS (
    SELECT * FROM jsonb_to_recordset(%(functions)s::jsonb) AS declared (name text, rules jsonb)
),
deleted AS (
    DELETE FROM runyard.triggers WHERE function IN (SELECT name FROM declared)
)
INSERT INTO runyard.triggers (function, event, wildcard, filter, condition)
SELECT declared.name, rule.event, rule.wildcard, rule.filter::jsonpath,
    nullif(rule.condition, 'null')
FROM declared
CROSS JOIN LATERAL jsonb_to_recordset(declared.rules)
    AS rule (event text, wildcard boolean, filter text, condition jsonb)

-- name: rekey
-- Give waiting invocations with stale keys the keys of their function's present flow control, up to
-- a limit for each function, and wake those functions; returns the highest number for a function.
-- The conditions are those of `has_stale_keys_v1`, which takes 75 ms to be called for each of 1,000
-- functions. OFFSET 0 makes it look up each function, where a hash would hold all that is queued.
-- (by invocations_keyed, invocations_due; functions is a small table: scanned)
WITH rekeyed AS (
    SELECT name, runyard.rekey_v1(name, %(limit)s) AS count
    FROM runyard.functions WHERE EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = functions.name AND generation < functions.generation
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
    ) OR (uses_lanes AND EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = functions.name AND status IN ('queued', 'sleeping', 'waiting')
            AND keys IS NULL
        OFFSET 0
    ))
)
SELECT max(count) AS count, runyard.wake_v1(string_agg(name, ','))
FROM rekeyed WHERE count > 0 HAVING count(*) > 0

-- name: pause
-- Pause or resume a function; one that is paused already keeps its time. (by functions_pkey)
UPDATE runyard.functions
SET paused_at = CASE WHEN %(paused)s THEN coalesce(paused_at, now()) END
WHERE name = %(function)s
RETURNING name, runyard.wake_v1(name)

-- name: record_publication
-- Record that a version of a code location runs, identified by what it has; returns whether it is
-- the one that counts. That is the one that was deployed last. One that was deployed before takes
-- its place again, unless it starts `beside` one that has not been silent for some seconds.
-- (by publications_pkey)
WITH latest AS (
    SELECT digest, seen_at FROM runyard.publications
    WHERE location = %(location)s ORDER BY at DESC LIMIT 1
),
decision AS (
    SELECT NOT EXISTS (
        SELECT FROM runyard.publications WHERE location = %(location)s AND digest = %(digest)s
    ) OR EXISTS (
        SELECT FROM latest WHERE digest = %(digest)s OR NOT %(beside)s
            OR seen_at < clock_timestamp() - make_interval(secs => %(silent)s)
    ) AS counts
),
recorded AS (
    INSERT INTO runyard.publications (location, digest) VALUES (%(location)s, %(digest)s)
    ON CONFLICT (location, digest) DO UPDATE SET seen_at = clock_timestamp(),
        at = CASE WHEN (SELECT counts FROM decision) THEN clock_timestamp()
            ELSE publications.at END
)
SELECT counts FROM decision

-- name: renew_publication
-- Note that a version of a code location runs; returns whether it is the one that counts.
-- (by publications_pkey)
UPDATE runyard.publications SET seen_at = clock_timestamp()
WHERE location = %(location)s AND digest = %(digest)s
RETURNING at = (
    SELECT max(at) FROM runyard.publications WHERE location = %(location)s) AS counts

-- name: retire_functions
-- Deactivate the functions that a code location no longer has. (a small table: scanned)
UPDATE runyard.functions SET active = false
WHERE active AND location = %(location)s AND NOT name = ANY (%(names)s)

-- name: restored_functions
-- The functions that were removed and restored, until all events sent in between are processed.
-- (a small table: scanned)
SELECT name FROM runyard.functions WHERE active AND restored_snapshot IS NOT NULL

-- name: catch_up
-- Start a restored function for the events it has missed, some at a time; returns where to
-- continue.
-- (by events_received_at, invocations_event)
SELECT runyard.catch_up_v1(%(function)s, %(after)s, %(limit)s) AS last

-- name: functions
-- Every function with how many of its invocations are queued, and failed. (by invocations_due,
-- invocations_delayed, invocations_lane, invocations_arrived and invocations_failed)
SELECT functions.*,
    (SELECT count(*) FROM runyard.invocations
     WHERE function = functions.name AND status IN ('queued', 'sleeping', 'waiting')
        AND keys IS NULL AND status = 'queued')
    + (SELECT count(*) FROM runyard.invocations
       WHERE function = functions.name AND lane IS NOT NULL)
    + (SELECT count(*) FROM runyard.invocations
       WHERE function = functions.name AND NOT admitted AND status = 'queued')
    + (SELECT count(*) FROM runyard.invocations
       WHERE function = functions.name AND status IN ('queued', 'sleeping', 'waiting')
        AND keys IS NOT NULL AND lane IS NULL AND admitted AND status = 'queued') AS queued,
    (SELECT count(*) FROM runyard.invocations
     WHERE function = functions.name AND status = 'failed' AND dismissed_at IS NULL) AS failed
FROM runyard.functions ORDER BY name

-- name: claim
-- Claim the due invocations of a function without lanes, highest priority first, then oldest; skip
-- what another claim has locked. Those that slept are due like any others; those of a function that
-- is paused, or whose launches fail, wait.
-- One index scan per priority, so that invocations that are not due yet are never walked over.
-- Invocations that lost two workers are suspects and run apart from the others (`alone`), so that
-- they take none with them and hold none up: see runyard.suspects_v1, which is only called if there
-- are any.
-- (by invocations_due, invocations_suspects, and as suspects_v1)
WITH RECURSIVE held AS (  -- until when the function is blocked
    SELECT runyard.held_until_v1(%(function)s) AS until
),
suspects AS (  -- the suspects whose turn it is
    SELECT id FROM runyard.suspects_v1(%(function)s, %(max_batch)s) AS id
    WHERE (SELECT until FROM held) IS NULL AND EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = %(function)s AND crashes >= 2
            AND status IN ('queued', 'sleeping', 'waiting'))
),
levels AS (  -- otherwise the priorities of all others, highest first
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND (SELECT until FROM held) IS NULL
        AND NOT EXISTS (SELECT FROM suspects) AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
     ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (
        SELECT invocations.priority FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND invocations.priority < levels.priority
        ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
),
due AS (  -- what is due of each priority, oldest first
    SELECT oldest.* FROM levels CROSS JOIN LATERAL (
        SELECT id FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND priority = levels.priority AND due_at <= runyard.now_v1()
        ORDER BY due_at, id LIMIT %(max_batch)s FOR UPDATE SKIP LOCKED
    ) AS oldest
    LIMIT %(max_batch)s
),
taken AS (  -- the claim itself
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE id IN (SELECT id FROM suspects UNION ALL SELECT id FROM due)
    RETURNING id, event_id, run_id
),
batch AS (
    INSERT INTO runyard.batches (id, function, invocations)
    SELECT %(batch)s, %(function)s, array_agg(id) FROM taken HAVING count(*) > 0
)
SELECT count(*) AS size, min(event_id) AS event_id,
    CASE WHEN min(run_id) = max(run_id) THEN min(run_id) END AS previous_run,
    EXISTS (SELECT FROM suspects) AS alone
FROM taken

-- name: claim_lanes
-- As `claim`, for a function with lanes: within its limits, round-robin from lane to lane.
-- (by invocations_lane)
SELECT size, event_id, previous_run, more, alone
FROM runyard.claim_v1(%(function)s, %(batch)s, %(max_batch)s, %(just)s::bigint[])

-- name: claim_invocations
-- Claim these invocations of a function without lanes, for a run that was launched for them.
-- (by invocations_pkey)
WITH taken AS (
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE id = ANY (%(just)s) AND function = %(function)s AND status = 'queued' RETURNING id
),
created AS (
    INSERT INTO runyard.batches (id, function, invocations, launched_at)
    SELECT %(batch)s, %(function)s, array_agg(id), clock_timestamp()
    FROM taken HAVING count(*) > 0
)
SELECT count(*) AS size FROM taken

-- name: invocations_of_events
-- The invocations of these events for one function. (by invocations_event)
SELECT id FROM runyard.invocations
WHERE event_id = ANY (%(events)s) AND function = %(function)s

-- name: replay_batch
-- Replay the events of a batch, as new invocations. (by batches_pkey, invocations_pkey)
SELECT copy AS id FROM runyard.batches, runyard.replay_v1(batches.invocations) AS copy
WHERE batches.id = %(parent)s

-- name: requeue_batch
-- Requeue the invocations of a batch that failed, were cancelled, or wait for another attempt.
-- (by batches_pkey, invocations_pkey)
SELECT due AS id FROM runyard.batches, runyard.requeue_v1(batches.invocations) AS due
WHERE batches.id = %(parent)s

-- name: next_due
-- Seconds until the next invocation of a function without lanes is due, the first of each priority,
-- or until what blocks the function is over. NULL if there is none, while it is paused, and if only
-- the end of a run can tell. (by invocations_due, invocations_crashed, invocations_crashing)
WITH RECURSIVE held AS (  -- until when the function is blocked
    SELECT runyard.held_until_v1(%(function)s) AS until
),
levels AS (  -- the priorities, highest first
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND (SELECT until FROM held) IS NULL
        AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
     ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (
        SELECT invocations.priority FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND invocations.priority < levels.priority
        ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
),
firsts AS (  -- the first of each, the first suspect if none is running, the end of the blocking
    SELECT first.due_at FROM levels CROSS JOIN LATERAL (
        SELECT due_at FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND priority = levels.priority
        ORDER BY due_at, id LIMIT 1
    ) AS first
    UNION ALL
    (SELECT due_at FROM runyard.invocations
     WHERE function = %(function)s AND crashes >= 2
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
        AND (SELECT until FROM held) IS NULL
        AND NOT EXISTS (
            SELECT FROM runyard.invocations AS others
            WHERE others.function = %(function)s AND others.crashes >= 2
                AND others.status IN ('claimed', 'running'))
     ORDER BY due_at, id LIMIT 1)
    UNION ALL
    SELECT until FROM held WHERE isfinite(until)
)
SELECT extract(epoch FROM min(due_at) - runyard.now_v1())::float8 AS seconds FROM firsts

-- name: next_due_lanes
-- As `next_due`, for a function with lanes. (by invocations_delayed)
SELECT runyard.next_due_v1(%(function)s) AS seconds

-- name: due_functions
-- For every function that has anything queued the seconds until its next invocation may be claimed,
-- as `next_due` gives them for one; what is due already is 0 or less.
-- Each index is walked from one function to the next, a search for each, however many invocations
-- a function has. `next_due_lanes` does not look into lanes; this looks at those of a function
-- until one is open, which is one that has room within every limit and, if it batches, is full or
-- due. If none of the first 50 is, the function counts as due, which is never later than the truth.
-- (by invocations_due, invocations_crashed, invocations_crashing, invocations_keyed,
-- invocations_arrived, invocations_delayed, invocations_lane, batches_open, functions_pkey,
-- failed_launches_pkey, flow_control_state_pkey, flow_control_state_clock)
WITH RECURSIVE levels AS (  -- without lanes: the first of each priority, until one is due
    (SELECT function, CASE WHEN crashes < 2 THEN 0 ELSE 1 END AS suspect, priority, due_at
     FROM runyard.invocations
     WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
     ORDER BY function, CASE WHEN crashes < 2 THEN 0 ELSE 1 END, priority DESC, due_at, id
     LIMIT 1)
    UNION ALL
    SELECT next.* FROM levels CROSS JOIN LATERAL (
        (SELECT function, 0, invocations.priority, due_at FROM runyard.invocations
         WHERE levels.suspect = 0 AND levels.due_at > runyard.now_v1()
            AND function = levels.function AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND invocations.priority < levels.priority
         ORDER BY priority DESC, due_at, id LIMIT 1)
        UNION ALL
        (SELECT function, CASE WHEN crashes < 2 THEN 0 ELSE 1 END, priority, due_at
         FROM runyard.invocations
         WHERE function > levels.function
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
         ORDER BY function, CASE WHEN crashes < 2 THEN 0 ELSE 1 END, priority DESC, due_at, id
         LIMIT 1)
        LIMIT 1
    ) AS next
),
crashed AS (  -- the functions that have suspects
    (SELECT function FROM runyard.invocations
     WHERE crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting')
     ORDER BY function LIMIT 1)
    UNION ALL
    SELECT (
        SELECT invocations.function FROM runyard.invocations
        WHERE invocations.function > crashed.function
            AND crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting')
        ORDER BY invocations.function LIMIT 1)
    FROM crashed WHERE crashed.function IS NOT NULL
),
keyed AS (  -- with lanes, whether in one already or not; with the oldest generation of their keys
    (SELECT function, generation FROM runyard.invocations
     WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
     ORDER BY function, generation LIMIT 1)
    UNION ALL
    SELECT next.* FROM keyed CROSS JOIN LATERAL (
        SELECT function, generation FROM runyard.invocations
        WHERE function > keyed.function
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
        ORDER BY function, generation LIMIT 1
    ) AS next
),
held AS (  -- what open batches hold of each concurrency limit
    SELECT coalesce(jsonb_object_agg(limited, n), '{}') AS slots FROM (
        SELECT concat(slot.scope, chr(31), slot.key) AS limited, sum(slot.n) AS n
        FROM runyard.batches
        CROSS JOIN LATERAL jsonb_to_recordset(batches.slots)
            AS slot (scope text, key text, n integer)
        WHERE batches.status IN ('claimed', 'running') AND batches.slots IS NOT NULL
        GROUP BY 1
    ) AS summed
),
lanes AS (  -- the lanes of each function, until one is open, each with its first invocation
    SELECT NULL AS function, NULL COLLATE "C" AS lane, 0 AS n, NULL::timestamptz AS due_at,
        true AS is_open
    UNION ALL
    SELECT next.function, next.lane, next.n, next.due_at, (
        NOT EXISTS (
            SELECT FROM jsonb_to_recordset(fn.flow->'concurrency')
                AS control (scope text, "limit" integer, key integer)
            WHERE "limit" <= coalesce((
                (SELECT slots FROM held)
                ->> concat(scope, chr(31), coalesce(parts.keys[key], '')))::integer, 0)
                AND NOT (scope = fn.name || ' singleton'
                    AND parts.keys[key] IS NOT DISTINCT FROM runyard.no_key_v1()))
        AND CASE
            WHEN parts.begun OR NOT fn.flow ? 'throttle' THEN true
            ELSE runyard.throttle_allowance_v1(fn.flow->'throttle', coalesce((
                SELECT state.until FROM runyard.flow_control_state AS state
                WHERE state.id = concat_ws(chr(31), 'throttle', fn.name,
                    coalesce(parts.keys[(fn.flow->'throttle'->>'key')::integer], ''))
            ), '-infinity')) > 0 END
        AND CASE
            WHEN right(next.lane, 2) = chr(30) || chr(30) THEN NOT EXISTS (
                SELECT FROM runyard.invocations
                WHERE function = next.function AND crashes >= 2
                    AND status IN ('claimed', 'running'))
            WHEN NOT fn.flow ? 'batch' OR next.due_at <= runyard.now_v1() THEN true
            ELSE EXISTS (
                SELECT FROM runyard.invocations
                WHERE function = next.function AND lane = next.lane
                ORDER BY priority DESC, invocations.due_at, id OFFSET fn.max_batch - 1 LIMIT 1) END
    )
    FROM lanes
    CROSS JOIN LATERAL (
        (SELECT function, invocations.lane, lanes.n + 1 AS n, invocations.due_at
         FROM runyard.invocations
         WHERE NOT lanes.is_open AND lanes.n < 50
            AND function = lanes.function AND invocations.lane > lanes.lane
         ORDER BY lane, priority DESC, due_at, id LIMIT 1)
        UNION ALL
        (SELECT function, invocations.lane, 1, invocations.due_at FROM runyard.invocations
         WHERE function > coalesce(lanes.function, '') AND invocations.lane IS NOT NULL
         ORDER BY function, lane, priority DESC, due_at, id LIMIT 1)
        LIMIT 1
    ) AS next
    JOIN runyard.functions AS fn ON fn.name = next.function
    CROSS JOIN LATERAL (
        SELECT string_to_array(rtrim(next.lane, chr(30)), chr(31)) AS keys,
            right(next.lane, 1) = chr(30) AS begun
    ) AS parts
),
times AS (  -- when each may have something to claim, as far as one of these tells
    SELECT function AS name, CASE
        WHEN fn.uses_lanes THEN runyard.now_v1() + interval '0.5 seconds'
        WHEN suspect = 0 THEN due_at END AS at
    FROM levels JOIN runyard.functions AS fn ON fn.name = function
    UNION ALL
    SELECT crashed.function, (
        SELECT due_at FROM runyard.invocations
        WHERE function = crashed.function AND crashes >= 2
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND NOT EXISTS (
                SELECT FROM runyard.invocations AS others
                WHERE others.function = crashed.function AND others.crashes >= 2
                    AND others.status IN ('claimed', 'running'))
        ORDER BY due_at, id LIMIT 1)
    FROM crashed JOIN runyard.functions AS fn ON fn.name = function AND NOT fn.uses_lanes
    UNION ALL
    SELECT keyed.function, least(
        CASE WHEN keyed.generation < fn.generation
            THEN runyard.now_v1() + interval '0.5 seconds' END,
        (SELECT due_at FROM runyard.invocations
         WHERE function = keyed.function AND NOT admitted AND status = 'queued'
         ORDER BY due_at, id LIMIT 1),
        (SELECT due_at FROM runyard.invocations
         WHERE function = keyed.function AND status IN ('queued', 'sleeping', 'waiting')
            AND keys IS NOT NULL AND lane IS NULL AND admitted
         ORDER BY due_at, id LIMIT 1))
    FROM keyed JOIN runyard.functions AS fn ON fn.name = function AND fn.uses_lanes
    UNION ALL
    SELECT function, CASE
        WHEN is_open OR n = 50 THEN least(due_at, runyard.now_v1())
        WHEN due_at > runyard.now_v1() THEN due_at END
    FROM lanes
    UNION ALL
    SELECT function, (
        SELECT state.clock - room.reserve FROM runyard.flow_control_state AS state
        WHERE state.function = fn.name AND state.clock > runyard.now_v1() + room.reserve
        ORDER BY state.clock LIMIT 1)
    FROM lanes JOIN runyard.functions AS fn ON fn.name = function AND fn.flow ? 'throttle'
    CROSS JOIN LATERAL (
        SELECT ((fn.flow->'throttle'->>'burst')::integer - 1)
            * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8) AS reserve
    ) AS room
    WHERE lanes.n = 1 AND NOT lanes.is_open
)
SELECT fn.name, fn.job, fn.max_batch AS largest, fn.uses_lanes, extract(epoch FROM CASE
    WHEN fn.paused_at IS NOT NULL THEN NULL
    WHEN launches.until > runyard.now_v1() THEN launches.until
    WHEN launches.until IS NOT NULL AND EXISTS (
        SELECT FROM runyard.batches WHERE status = 'claimed' AND function = fn.name
    ) THEN NULL
    ELSE times.at END - runyard.now_v1())::float8 AS seconds
FROM (SELECT name, min(at) AS at FROM times GROUP BY name) AS times
JOIN runyard.functions AS fn USING (name)
LEFT JOIN runyard.failed_launches AS launches ON launches.function = fn.name

-- name: capacity
-- For functions of the project's code, then for those of applications (`remote`): how many runs the
-- living workers can execute at a time, and how many batches wait for one or are running. A claim
-- that was not launched in time does not count: its claimer is gone.
-- (by batches_open, app_functions_pkey; workers is a small table: scanned)
WITH alive AS (
    SELECT remote, sum(slots) AS slots FROM runyard.workers
    WHERE heartbeat_at > now() - make_interval(secs => %(lease)s) GROUP BY remote
),
open AS (
    SELECT EXISTS (
            SELECT FROM runyard.app_functions WHERE app_functions.function = batches.function
        ) AS remote,
        count(*) FILTER (WHERE status = 'running') AS running,
        count(*) FILTER (WHERE status = 'claimed' AND (
            launched_at IS NOT NULL
            OR claimed_at > now() - make_interval(secs => %(launch)s))) AS waiting
    FROM runyard.batches WHERE status IN ('claimed', 'running') GROUP BY 1
)
SELECT coalesce(slots, 0) AS slots, coalesce(waiting, 0) AS waiting, coalesce(running, 0) AS running
FROM (VALUES (false), (true)) AS kinds (remote)
LEFT JOIN alive USING (remote) LEFT JOIN open USING (remote) ORDER BY remote

-- name: mark_launched
-- Record that the run of a batch is handed to the broker; returns whether it was (`marked`) and the
-- status that the batch had. The row is locked first: an UPDATE that waits for a lock writes the
-- time at which its wait began. (by batches_pkey)
WITH claimed AS (
    SELECT id FROM runyard.batches
    WHERE id = %(batch)s AND status = 'claimed' FOR NO KEY UPDATE
),
launched AS (
    UPDATE runyard.batches
    SET launched_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    FROM claimed WHERE batches.id = claimed.id RETURNING batches.id
)
SELECT EXISTS (SELECT FROM launched) AS marked, status
FROM runyard.batches WHERE id = %(batch)s

-- name: unlaunched_batches
-- Batches that were claimed, and whose run nobody has launched in time. (by batches_open)
SELECT id, function, status, run_id, cancel_requested_at IS NOT NULL AS cancelled
FROM runyard.batches
WHERE status = 'claimed' AND launched_at IS NULL
    AND claimed_at <= now() - make_interval(secs => %(seconds)s)
ORDER BY claimed_at LIMIT 100

-- name: begin
-- A run takes its batch; no row if the lease is gone or another run has it. If launches of its
-- function have failed before, they work again, and what waits is claimed.
-- (by batches_pkey, failed_launches_pkey)
WITH free AS (  -- locked first, as for `mark_launched`
    SELECT id FROM runyard.batches
    WHERE id = %(batch)s AND (status = 'claimed' OR (status = 'running' AND run_id = %(run)s))
    FOR NO KEY UPDATE
),
begun AS (
    UPDATE runyard.batches
    SET status = 'running', run_id = %(run)s, worker = %(worker)s,
        started_at = coalesce(started_at, clock_timestamp()), heartbeat_at = clock_timestamp()
    FROM free WHERE batches.id = free.id
    RETURNING batches.id, function
),
works_again AS (
    DELETE FROM runyard.failed_launches WHERE function = (SELECT function FROM begun)
    RETURNING runyard.wake_v1(function)
)
SELECT id, function FROM begun

-- name: begin_invocations
-- Start an attempt of the invocations of a batch; returns them with their events.
-- (by invocations_pkey, events_pkey)
WITH before AS (  -- whether a run has worked on them before, which `started` overwrites
    SELECT id, started_at IS NOT NULL OR replay_of IS NOT NULL AS seen, run_id,
        status = 'claimed' AS starts, started_at IS NULL AS first,
        greatest(0, extract(epoch FROM runyard.now_v1() - due_at))::float8 AS waited
    FROM runyard.invocations
    WHERE id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(batch)s)
        AND batch_id = %(batch)s AND status IN ('claimed', 'running')
),
started AS (
    UPDATE runyard.invocations
    SET status = 'running', run_id = %(run)s, dispatch = invocations.dispatch + 1,
        attempt = invocations.attempt + (status = 'claimed')::integer,
        since = coalesce(since, pg_current_snapshot()),
        started_at = coalesce(started_at, runyard.now_v1()),
        expires_at = CASE WHEN started_at IS NULL
            THEN runyard.now_v1() + make_interval(secs => %(finish_timeout)s::float8)
            ELSE expires_at END
    FROM before
    WHERE invocations.id = before.id AND invocations.id = ANY (
        SELECT unnest(invocations) FROM runyard.batches WHERE id = %(batch)s)
    RETURNING invocations.id, event_id, attempt, invocations.dispatch, replay_of, due_at, priority,
        crashes, created_at,
        cancel_requested_at IS NOT NULL AS cancelled, before.seen,
        before.run_id AS previous_run, leader_id IS NOT NULL AS leads, function, before.starts,
        before.first, before.waited
),
counted AS (
    INSERT INTO runyard.tallies (metric, name, label, bucket, count, seconds)
    SELECT 'started', function, CASE WHEN first THEN 'first' ELSE 'again' END,
        runyard.bucket_v1(waited), count(*), sum(waited)
    FROM started WHERE starts GROUP BY 1, 2, 3, 4
)
SELECT started.id, started.event_id, started.attempt, started.dispatch, started.crashes,
    started.cancelled, started.created_at, started.seen, started.previous_run, started.leads,
    started.function, started.starts, started.waited,
    extract(
        epoch FROM runyard.now_v1() - started.created_at + (clock_timestamp() - now())
    )::float8 AS age,
    (SELECT extract(epoch FROM clock_timestamp() - started_at)::float8
        FROM runyard.batches WHERE id = %(batch)s) AS lasted,
    events.name, events.data, events."user" AS user_data, events.v, events.trace,
    (extract(epoch FROM events.ts) * 1000)::bigint AS ts
FROM started JOIN runyard.events ON events.id = started.event_id
ORDER BY started.priority DESC, started.due_at, started.id

-- name: released_invocations
-- What became of the invocations of batches when their leases were taken away, but for those that
-- had left them. (by batches_pkey, invocations_pkey, events_pkey)
SELECT invocations.id, invocations.event_id, invocations.function, invocations.attempt,
    invocations.status, invocations.error::text AS error, batches.run_id,
    extract(
        epoch FROM runyard.now_v1() - invocations.created_at + (clock_timestamp() - now())
    )::float8 AS age,
    extract(epoch FROM clock_timestamp() - batches.started_at)::float8 AS lasted,
    events.name, events.trace
FROM runyard.batches
JOIN runyard.invocations ON invocations.id = ANY (batches.invocations)
    AND NOT invocations.id = ANY (batches.settled)
JOIN runyard.events ON events.id = invocations.event_id
WHERE batches.id = ANY (%(batches)s) AND batches.run_id IS NOT NULL

-- name: group_events
-- The other events of groups, by their leaders, in the order in which they came.
-- (by invocations_leader, events_pkey)
SELECT invocations.leader_id, events.id AS event_id, events.name, events.data,
    events."user" AS user_data, events.v, events.trace,
    (extract(epoch FROM events.ts) * 1000)::bigint AS ts
FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE leader_id = ANY (%(leaders)s) AND invocations.id <> leader_id
ORDER BY leader_id, invocations.id

-- name: recorded_steps
-- The results of these invocations' steps so far, in the order in which they were recorded.
-- (by steps_pkey)
SELECT invocation_id, step, output, error, run_id, tries FROM runyard.steps
WHERE invocation_id = ANY (%(invocations)s) ORDER BY number

-- name: record_steps
-- Record results of steps; no row if the lease is gone. Nothing is recorded for an invocation that
-- has left the batch. A recorded output is never replaced. An error that is written again, because
-- the answer to the first time was lost, counts as one try.
-- (by steps_pkey, batches_pkey)
WITH lease AS (
    SELECT id, function, settled FROM runyard.batches
    WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' FOR SHARE
),
recorded AS (
    INSERT INTO runyard.steps (
        invocation_id, step, attempt, run_id, output, error, started_at, finished_at)
    SELECT results.invocation_id, results.step, results.attempt, %(run)s, results.output::jsonb,
        results.error::jsonb, to_timestamp(results.started_at), to_timestamp(results.finished_at)
    FROM lease JOIN unnest(
        %(invocations)s::bigint[], %(steps)s::text[], %(attempts)s::smallint[],
        %(outputs)s::text[], %(errors)s::text[], %(started)s::float8[], %(finished)s::float8[]
    ) AS results (invocation_id, step, attempt, output, error, started_at, finished_at)
        ON NOT results.invocation_id = ANY (lease.settled)
    ON CONFLICT (invocation_id, step) DO UPDATE SET
        attempt = excluded.attempt, run_id = excluded.run_id, output = excluded.output,
        error = excluded.error,
        tries = steps.tries + (
            (steps.run_id, steps.finished_at)
            IS DISTINCT FROM (excluded.run_id, excluded.finished_at))::integer,
        started_at = excluded.started_at, finished_at = excluded.finished_at,
        number = excluded.number
    WHERE steps.error IS NOT NULL
    RETURNING CASE WHEN error IS NULL THEN 'succeeded' ELSE 'failed' END AS outcome,
        greatest(0, extract(epoch FROM finished_at - started_at))::float8 AS took
),
counted AS (
    INSERT INTO runyard.tallies (metric, name, label, bucket, count, seconds)
    SELECT 'step', lease.function, outcome, runyard.bucket_v1(took), count(*), sum(took)
    FROM recorded CROSS JOIN lease GROUP BY 1, 2, 3, 4
)
SELECT id FROM lease

-- name: record_logs
-- Write what a step has logged for invocations, over what was written of the same run before,
-- unless the lease is gone or they have left the batch. (by batches_pkey, step_logs_pkey)
INSERT INTO runyard.step_logs (
    invocation_id, step, run_id, attempt, started_at, lines, dropped)
SELECT logs.invocation_id, %(step)s, %(run)s, logs.attempt, to_timestamp(logs.started),
    logs.lines::jsonb, logs.dropped
FROM runyard.batches JOIN unnest(
    %(invocations)s::bigint[], %(attempts)s::smallint[], %(started)s::float8[], %(lines)s::text[],
    %(dropped)s::integer[]
) AS logs (invocation_id, attempt, started, lines, dropped)
    ON NOT logs.invocation_id = ANY (batches.settled)
WHERE batches.id = %(batch)s AND batches.run_id = %(run)s AND batches.status = 'running'
ON CONFLICT (invocation_id, step, run_id) DO UPDATE SET
    attempt = excluded.attempt, lines = excluded.lines, dropped = excluded.dropped

-- name: save_run_output
-- Add pieces to what a run has printed. A piece that is written again, since its first statement
-- may have failed, replaces itself. (by run_output_pkey)
INSERT INTO runyard.run_output (key, stream, start, content)
SELECT %(key)s, stream, start, content
FROM unnest(%(streams)s::text[], %(starts)s::integer[], %(contents)s::bytea[])
    AS pieces (stream, start, content)
ON CONFLICT (key, stream, start) DO UPDATE SET content = excluded.content

-- name: delete_run_output
-- Delete what was printed under a key, or of one of its streams. (by run_output_pkey)
DELETE FROM runyard.run_output
WHERE key = %(key)s AND (%(stream)s::text IS NULL OR stream = %(stream)s)

-- name: run_output
-- What was printed under a key, piece by piece: of each of these streams from a place on, and no
-- more than so many bytes. (by run_output_pkey)
SELECT stream, substring(
    content
    FROM (1 + greatest(places.place - start, 0))::integer
    FOR least(
        length(content), places.place + %(most)s::bigint - greatest(places.place, start)
    )::integer
) AS content
FROM unnest(%(streams)s::text[], %(places)s::bigint[]) AS places (stream, place)
JOIN runyard.run_output USING (stream)
WHERE key = %(key)s AND start + length(content) > places.place
    AND (%(most)s::bigint IS NULL OR start < places.place + %(most)s::bigint)
ORDER BY stream, start

-- name: run_output_exists
-- Whether a stream under a key has something. (by run_output_pkey)
SELECT EXISTS (
    SELECT FROM runyard.run_output WHERE key = %(key)s AND stream = %(stream)s
) AS has_some

-- name: run_output_keys
-- The keys below another one under which a stream has something. (by run_output_pkey)
SELECT DISTINCT key FROM runyard.run_output
WHERE key > %(prefix)s || '/' AND key < %(prefix)s || '0' AND stream = %(stream)s
ORDER BY key

-- name: settle
-- Write the outcome of invocations of a batch, and end its lease if they are the last ones
-- (`ends`); otherwise they leave the batch, which goes on without them and their share of its
-- slots. No row if the lease is gone.
-- The fence is the lease, with what has left it: with a condition on invocations.batch_id the
-- planner would expect a single row, and scan the table.
-- What suspends is due when the first of its waits is over, or at once if one has been resolved
-- meanwhile. (by batches_pkey, invocations_pkey, waits_invocation_id_step_key, and as
-- slots_without_v1)
WITH lease AS (
    SELECT id, function, settled, slots FROM runyard.batches
    WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' FOR NO KEY UPDATE
),
suspended AS (  -- when those that suspend are due
    SELECT waits.invocation_id, CASE
        WHEN bool_or(waits.resolved_at IS NOT NULL) THEN runyard.now_v1()
        ELSE min(waits.expires_at) END AS due_at
    FROM unnest(%(suspended)s::bigint[], %(steps)s::text[]) AS at (invocation_id, step)
    JOIN runyard.waits ON waits.invocation_id = at.invocation_id AND waits.step = at.step
    GROUP BY 1
),
outcomes AS (  -- all outcomes, with that time
    SELECT outcome.*, suspended.due_at AS wakes FROM unnest(
        %(invocations)s::bigint[], %(statuses)s::text[], %(delays)s::float8[],
        %(attempts)s::smallint[], %(outputs)s::text[], %(errors)s::text[]
    ) AS outcome (invocation_id, status, delay, attempt, output, error)
    JOIN lease ON NOT outcome.invocation_id = ANY (lease.settled)
    LEFT JOIN suspended USING (invocation_id)
),
changed AS (  -- the batch: ended, or without those that leave it
    UPDATE runyard.batches
    SET status = CASE WHEN %(ends)s THEN 'finished' ELSE status END,
        finished_at = CASE WHEN %(ends)s THEN now() END,
        settled = CASE
            WHEN %(ends)s THEN batches.settled
            ELSE batches.settled || ARRAY(SELECT invocation_id FROM outcomes) END,
        slots = CASE
            WHEN %(ends)s OR batches.slots IS NULL THEN batches.slots
            ELSE runyard.slots_without_v1(
                batches.function, batches.slots,
                ARRAY(SELECT invocation_id FROM outcomes)) END
    FROM lease WHERE batches.id = lease.id
),
settled AS (  -- the invocations; what was to be cancelled is not queued or suspended again
    UPDATE runyard.invocations
    SET status = CASE
            WHEN outcome.status IN ('queued', 'sleeping', 'waiting')
                AND cancel_requested_at IS NOT NULL THEN 'cancelled'
            ELSE outcome.status END,
        batch_id = NULL, output = outcome.output::jsonb, crashes = 0, suspect = NULL,
        attempt = coalesce(outcome.attempt, invocations.attempt),
        error = CASE
            WHEN cancel_requested_at IS NOT NULL AND outcome.status <> 'succeeded'
                THEN invocations.error
            ELSE outcome.error::jsonb END,
        since = CASE WHEN outcome.status IN ('sleeping', 'waiting') THEN NULL ELSE since END,
        due_at = CASE
            WHEN outcome.status = 'queued'
                THEN runyard.now_v1() + make_interval(secs => outcome.delay)
            ELSE coalesce(outcome.wakes, due_at) END,
        finished_at = CASE
            WHEN outcome.status IN ('queued', 'sleeping', 'waiting')
                AND cancel_requested_at IS NULL THEN NULL
            ELSE runyard.now_v1() END
    FROM outcomes AS outcome
    WHERE invocations.id = outcome.invocation_id
        AND invocations.id = ANY (%(invocations)s::bigint[])
),
unfinished AS (  -- a run segment for each that continues in another run
    INSERT INTO runyard.run_segments (invocation_id, run_id, status, error)
    SELECT invocation_id, %(run)s, status, error::jsonb FROM outcomes
    WHERE status IN ('queued', 'sleeping', 'waiting')
)
SELECT id, (
    SELECT runyard.wake_v1(CASE  -- a slot that other functions wait for too wakes all of them
        WHEN %(ends)s OR lease.slots::text LIKE '%%"shared %%' THEN '' ELSE lease.function END)
    WHERE %(ends)s OR lease.slots IS NOT NULL
        OR %(statuses)s::text[] && ARRAY['queued', 'sleeping', 'waiting'])
FROM lease

-- name: heartbeat
-- Renew the leases of these batches, including those whose run is on its way to them; returns those
-- that are still held, whether their run has begun and was told to stop, and which invocations were
-- cancelled. One that another transaction has locked is left for the next time: a lease outlasts
-- many heartbeats, and none waits for another. (by batches_pkey)
WITH free AS (
    SELECT id FROM runyard.batches
    WHERE id = ANY (%(batches)s) AND status IN ('claimed', 'running')
    FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE runyard.batches SET heartbeat_at = clock_timestamp() WHERE id IN (SELECT id FROM free)
)
SELECT id, status = 'running' AS begun,
    cancel_requested_at IS NOT NULL OR cancelled @> invocations AS stopped, cancelled
FROM runyard.batches WHERE id = ANY (%(batches)s) AND status IN ('claimed', 'running')

-- name: heartbeat_worker
-- Record that a worker is alive; returns whether applications have functions.
-- (by workers_pkey, app_functions_pkey)
INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace, remote)
VALUES (%(name)s, %(host)s, %(pid)s, %(slots)s, %(pid_namespace)s, %(remote)s)
ON CONFLICT (name) DO UPDATE SET
    host = excluded.host, pid = excluded.pid, pid_namespace = excluded.pid_namespace,
    slots = excluded.slots, heartbeat_at = clock_timestamp(),
    started_at = CASE
        WHEN workers.pid = excluded.pid THEN workers.started_at
        ELSE clock_timestamp() END
RETURNING EXISTS (SELECT FROM runyard.app_functions) AS has_apps

-- name: batches_on_host
-- Batches that run in processes of this PID namespace: those of the worker itself, and those of
-- others that have been silent for some seconds; also those that are settled while their run has
-- not ended. (by batches_open, batches_ending; workers is a small table: scanned)
SELECT batches.id, batches.function, batches.status, batches.run_id, batches.worker,
    batches.cancel_requested_at IS NOT NULL AS cancelled
FROM runyard.batches
JOIN runyard.workers ON starts_with(batches.worker, workers.name || ':')
WHERE batches.status = 'running' AND workers.pid_namespace = %(pid_namespace)s AND (
    workers.name = %(name)s
    OR batches.heartbeat_at < now() - make_interval(secs => %(silent)s))
UNION ALL
SELECT batches.id, batches.function, batches.status, batches.run_id, batches.worker, false
FROM runyard.batches
JOIN runyard.workers ON starts_with(batches.worker, workers.name || ':')
WHERE batches.status = 'finished' AND batches.ended_at IS NULL AND batches.run_id IS NOT NULL
    AND workers.pid_namespace = %(pid_namespace)s

-- name: hand_back
-- Give back what the processes of a stopping worker are still doing; no attempt is counted. It is
-- due at once when there is another worker of its kind, and otherwise a few seconds later: the one
-- that replaces this one may be starting.
-- Returns the batches and their runs.
-- (by batches_open, invocations_pkey; workers is a small table: scanned)
WITH wait AS (
    SELECT CASE WHEN count(*) > 0 THEN interval '0' ELSE interval '4 seconds' END AS pause
    FROM runyard.workers AS others
    JOIN runyard.workers AS stopping USING (remote)
    WHERE stopping.name = %(name)s AND others.name <> stopping.name AND others.slots > 0
        AND others.heartbeat_at > now() - make_interval(secs => %(lease)s)
),
leases AS (
    UPDATE runyard.batches SET status = 'lost', finished_at = now()
    WHERE status = 'running' AND starts_with(worker, %(name)s || ':')
    RETURNING id, invocations, run_id
),
held AS (
    SELECT unnest(invocations) AS id, leases.id AS batch_id, run_id FROM leases
),
freed AS (
    UPDATE runyard.invocations
    SET batch_id = NULL, attempt = greatest(0, attempt - 1),
        status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_requested_at IS NOT NULL THEN runyard.now_v1() END,
        due_at = greatest(due_at, runyard.now_v1() + pause)
    FROM held CROSS JOIN wait
    WHERE invocations.id = held.id AND invocations.id = ANY (SELECT id FROM held)
        AND invocations.batch_id = held.batch_id AND status = 'running'
    RETURNING invocations.id, invocations.status, held.run_id
),
unfinished AS (
    INSERT INTO runyard.run_segments (invocation_id, run_id, status)
    SELECT id, run_id, 'lost' FROM freed WHERE status = 'queued'
)
SELECT id, run_id, runyard.wake_v1('') FROM leases

-- name: retry_launches
-- Try the functions whose launches fail again at once: a worker has started, and it may have the
-- code that the others lack. (a small table: scanned)
UPDATE runyard.failed_launches SET until = runyard.now_v1()
WHERE until > runyard.now_v1() RETURNING runyard.wake_v1(function)

-- name: delete_worker
-- Forget a worker that stops in order. (by workers_pkey)
DELETE FROM runyard.workers WHERE name = %(name)s AND pid = %(pid)s

-- name: workers
-- The workers that were heard of within a day, and for how long they have been silent.
-- (a small table: scanned)
SELECT name, host, pid, slots, remote,
    extract(epoch FROM now() - heartbeat_at)::float8 AS silent
FROM runyard.workers WHERE heartbeat_at > now() - interval '1 day' ORDER BY name

-- name: overdue_batches
-- Batches whose worker has fallen silent, or whose run never began although a slot was free for it;
-- for one reaper at a time. A batch that waits in the broker behind others is left alone: then all
-- slots of its kind are busy, if only with the end of a run whose batch is settled.
-- (by batches_open, batches_ending, app_functions_pkey; workers is a small table: scanned)
WITH busy AS (
    SELECT EXISTS (
            SELECT FROM runyard.app_functions WHERE app_functions.function = held.function
        ) AS remote, count(*) AS running
    FROM (
        SELECT function FROM runyard.batches
        WHERE status = 'running' AND heartbeat_at > now() - make_interval(secs => %(lease)s)
        UNION ALL
        SELECT function FROM runyard.batches
        WHERE status = 'finished' AND ended_at IS NULL
            AND finished_at > now() - make_interval(secs => %(lease)s)
        UNION ALL
        SELECT function FROM runyard.batches  -- those that a worker is on its way to
        WHERE status = 'claimed' AND heartbeat_at > now() - make_interval(secs => %(lease)s)
            AND launched_at < now() - make_interval(secs => %(lease)s)
    ) AS held
    GROUP BY 1
),
full_up AS (  -- the kinds of functions that have workers, but no free slot
    SELECT remote FROM runyard.workers LEFT JOIN busy USING (remote)
    WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)
    GROUP BY remote, running HAVING sum(slots) <= coalesce(running, 0)
)
SELECT id, function, status, run_id, cancel_requested_at IS NOT NULL AS cancelled
FROM runyard.batches
WHERE status IN ('claimed', 'running')
    AND heartbeat_at < now() - make_interval(secs => %(lease)s)
    AND (status = 'running' OR cancel_requested_at IS NOT NULL
        OR NOT EXISTS (
            SELECT FROM full_up WHERE remote = EXISTS (
                SELECT FROM runyard.app_functions
                WHERE app_functions.function = batches.function)))
ORDER BY heartbeat_at LIMIT 100

-- name: renew_claim
-- Renew the lease of a batch whose run is on its way to it, unless that was launched too long ago;
-- returns its id. (by batches_pkey)
UPDATE runyard.batches SET heartbeat_at = clock_timestamp()
WHERE id = %(batch)s AND status = 'claimed' AND cancel_requested_at IS NULL
    AND launched_at > now() - make_interval(secs => %(seconds)s)
RETURNING id

-- name: mark_run_ended
-- Record that the run of a batch has ended too, so that its process is free again. (by batches_run)
UPDATE runyard.batches SET ended_at = now() WHERE run_id = %(run)s AND ended_at IS NULL

-- name: mark_batch_ended
-- The same for a batch that no run has begun. (by batches_pkey)
UPDATE runyard.batches SET ended_at = now() WHERE id = %(batch)s AND ended_at IS NULL

-- name: unbegun_batches
-- Batches that were released a while ago before a run had begun them. (by batches_ending)
SELECT id FROM runyard.batches
WHERE ended_at IS NULL AND status = 'lost' AND run_id IS NULL
    AND finished_at < now() - make_interval(secs => %(lease)s)
ORDER BY finished_at LIMIT 20

-- name: batches_with_open_runs
-- Batches that are over while their run may never end, because its process is gone: that of a
-- silent worker, or of a lost lease. (by batches_ending; workers is a small table: scanned)
SELECT id, run_id, status FROM runyard.batches
WHERE ended_at IS NULL AND status IN ('finished', 'lost')
    AND finished_at < now() - make_interval(secs => 2 * %(lease)s)
    AND run_id IS NOT NULL AND worker LIKE '%%:%%:%%'
    AND (status = 'lost' OR NOT EXISTS (
        SELECT FROM runyard.workers
        WHERE starts_with(batches.worker, workers.name || ':')
            AND heartbeat_at > now() - make_interval(secs => %(lease)s)))
ORDER BY finished_at LIMIT 20

-- name: release
-- End the lease of a batch and end or requeue what it held: 'queued' or 'cancelled'; invocations
-- that have begun and are out of attempts fail. What never began keeps its attempts and its place.
-- `crashed` counts a lost worker. It costs an attempt only if the invocation was alone in the run:
-- with several, nobody knows which one it was. From the second lost worker on they are suspects:
-- they are bisected, unless others are; those bisected beside them are cleared, because the culprit
-- was here. `failed` makes the function back off: its runs fail to start.
-- No row if another process was first, or the worker came back.
-- (by batches_pkey, invocations_pkey, invocations_bisecting, failed_launches_pkey)
WITH lease AS (
    UPDATE runyard.batches SET status = 'lost', finished_at = now()
    WHERE id = %(batch)s AND status = %(expected)s
        AND (%(force)s OR heartbeat_at < now() - make_interval(secs => %(lease)s))
    RETURNING id, function, invocations, run_id
),
open AS (  -- its invocations that are not final, and whether a worker was lost under them
    SELECT id, attempt, suspect, %(status)s = 'queued' AND status = 'running' AS began,
        %(crashed)s AND %(status)s = 'queued' AS lost, count(*) OVER () > 1 AS in_company
    FROM runyard.invocations
    WHERE invocations.id = ANY (SELECT unnest(invocations) FROM lease) AND batch_id = %(batch)s
        AND status IN ('claimed', 'running')
),
held AS (  -- whether it is unclear which one lost the worker, and whether their attempts are spent
    SELECT id, lost, lost AND in_company AS unclear,
        began AND attempt >= %(attempts)s AND NOT (lost AND in_company) AS spent
    FROM open
),
search AS (  -- whether the group that is being bisected was here, and whether there is one
    SELECT EXISTS (SELECT FROM open WHERE lost AND suspect = 'bisecting') AS was_here,
        EXISTS (
            SELECT FROM runyard.invocations
            WHERE function = (SELECT function FROM lease) AND suspect = 'bisecting'
                AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
        ) AS goes_on
),
cleared AS (  -- the other half of that group
    UPDATE runyard.invocations SET suspect = NULL
    WHERE (SELECT was_here FROM search) AND function = (SELECT function FROM lease)
        AND suspect = 'bisecting' AND status IN ('queued', 'sleeping', 'waiting')
),
freed AS (  -- the invocations themselves
    UPDATE runyard.invocations SET
        batch_id = NULL,
        crashes = crashes + lost::integer,
        suspect = CASE
            WHEN NOT lost OR crashes = 0 THEN suspect
            WHEN NOT unclear THEN 'isolated'
            WHEN was_here OR NOT goes_on THEN 'bisecting' END,
        attempt = attempt - (unclear AND status = 'running')::integer,
        status = CASE
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN spent THEN 'failed'
            ELSE %(status)s END,
        due_at = CASE
            WHEN %(status)s = 'queued' AND status = 'running'
                THEN runyard.now_v1() + make_interval(secs => %(delay)s)
            ELSE due_at END,
        error = CASE
            WHEN cancel_requested_at IS NOT NULL THEN error
            WHEN lost AND spent AND crashes > 0
                THEN coalesce(%(error)s::jsonb, '{}') || jsonb_build_object('message', format(
                    '%%s workers were lost while it ran, the last one with nothing else in the '
                    'run: most likely one of its steps kills its process (out of memory, or a '
                    'crash in native code); fix that, then replay it', crashes + 1))
            ELSE coalesce(%(error)s::jsonb, error) END,
        finished_at = CASE
            WHEN %(status)s = 'queued' AND NOT spent AND cancel_requested_at IS NULL THEN NULL
            ELSE runyard.now_v1() END
    FROM held CROSS JOIN search WHERE invocations.id = held.id
    RETURNING invocations.id, invocations.status
),
unfinished AS (  -- a run segment for each that is queued again
    INSERT INTO runyard.run_segments (invocation_id, run_id, status, error)
    SELECT freed.id, lease.run_id, 'lost', %(error)s::jsonb FROM freed CROSS JOIN lease
    WHERE freed.status = 'queued' AND lease.run_id IS NOT NULL
),
counted AS (
    INSERT INTO runyard.tallies (metric, name, count)
    SELECT 'lost', function, 1 FROM lease WHERE %(crashed)s
),
backing_off AS (  -- the function, if its runs fail to start: longer with every failure
    INSERT INTO runyard.failed_launches AS known (function, failures, until, error)
    SELECT function, 1, runyard.now_v1() + make_interval(secs => %(first_delay)s),
        %(error)s::jsonb
    FROM lease WHERE %(failed)s
    ON CONFLICT (function) DO UPDATE SET error = excluded.error,
        failures = known.failures + (known.until <= runyard.now_v1())::integer,
        until = CASE
            WHEN known.until > runyard.now_v1() THEN known.until
            ELSE runyard.now_v1() + make_interval(secs => least(
                %(most_delay)s, %(first_delay)s * 2.0 ^ least(known.failures, 30))) END
)
SELECT function, (SELECT count(*) FROM freed) AS size, runyard.wake_v1('') FROM lease

-- name: expired
-- Cancel what a timeout has caught, up to a limit; returns how many. (by invocations_expiring)
SELECT runyard.cancel_v1(array_agg(id), 'timeout: it did not begin or end in time') AS count
FROM (
    SELECT id FROM runyard.invocations
    WHERE expires_at <= runyard.now_v1()
        AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
        AND cancel_requested_at IS NULL
    ORDER BY expires_at LIMIT %(limit)s
) AS late HAVING count(*) > 0

-- name: apply_deferred_requests
-- Apply the requests of SQL that could not be applied in their transaction; returns how many.
-- (runyard.requests is almost always empty: scanned)
SELECT runyard.apply_requests_v1(true) AS count

-- name: match
-- Match the events since the last call with waits for events, if there are any.
-- (by waits_event, events_name)
SELECT CASE WHEN EXISTS (
    SELECT FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL
) THEN (SELECT runyard.match_v1() FROM runyard.lock_waits_v1()) ELSE 0 END AS count

-- name: dagster_tables
-- Which tables the names of Dagster's mean on this connection: in which cluster and database.
-- (by the catalog alone)
SELECT concat_ws(' ', system_identifier, current_database(), to_regclass('runs')::oid,
    to_regclass('event_logs')::oid, to_regclass('job_ticks')::oid) AS place
FROM pg_control_system()

-- name: from_another_cluster
-- Whether the tables were restored from a cluster that was ahead of this one.
-- (by events_received_at)
SELECT runyard.from_another_cluster_v1() AS moved

-- name: lock_waits
-- Held by whoever registers waits, suspends invocations or matches events, so that none misses what
-- another does. (an advisory lock, nothing scanned)
SELECT runyard.lock_waits_v1()

-- name: lock_lease
-- Keep the lease of a run's batch until the transaction ends; no row if it is gone. Returns which
-- of its invocations have left it. (by batches_pkey)
SELECT settled FROM runyard.batches
WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' FOR SHARE

-- name: registered_waits
-- Which of these invocations have registered waits at these steps before.
-- (by waits_invocation_id_step_key)
SELECT invocation_id, step FROM runyard.waits
WHERE step = ANY (%(steps)s) AND invocation_id = ANY (%(invocations)s)

-- name: wait
-- Register what invocations wait for, each once; returns how each wait stands.
-- (by waits_invocation_id_step_key)
SELECT invocation_id, step, done, expired, result, extract(epoch FROM due_at)::float8 AS due
FROM runyard.wait_v1(%(waits)s::jsonb)

-- name: send_signal
-- Resolve the wait for a signal; returns its invocation, no row if nobody waits for it.
-- (by waits_signal, invocations_pkey)
SELECT invocations.id, invocations.created_at
FROM runyard.send_signal_v1(%(signal)s, %(data)s::jsonb) AS waiting
JOIN runyard.invocations ON invocations.id = waiting

-- name: finished_waits
-- The waits of these invocations that are over and have no result among the steps yet, in the order
-- in which they ended; one row without a wait if there is none, no row if the lease is gone.
-- (by batches_pkey, waits_invocation_id_step_key, steps_pkey)
WITH lease AS (
    SELECT settled FROM runyard.batches
    WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running'
)
SELECT over.invocation_id, over.step, over.kind, over.result, over.expired
FROM lease LEFT JOIN (
    SELECT waits.*, resolved_at IS NULL AS expired FROM runyard.waits
    WHERE invocation_id = ANY (%(invocations)s::bigint[]) AND kind <> 'cancel'
        AND (resolved_at IS NOT NULL OR expires_at <= runyard.now_v1())
        AND NOT EXISTS (
            SELECT FROM runyard.steps
            WHERE steps.invocation_id = waits.invocation_id AND steps.step = waits.step
                AND steps.error IS NULL)
) AS over ON NOT over.invocation_id = ANY (lease.settled)
ORDER BY coalesce(over.resolved_at, over.expires_at), over.id

-- name: remember_dropped
-- Remember which invocations had dropped out of a batch by the end of an op, and what they wait
-- for, for ops in other processes. (by batches_run)
UPDATE runyard.batches
SET dropped_by_op = dropped_by_op || jsonb_build_object(%(op)s::text, %(left)s::jsonb)
WHERE run_id = %(run)s AND status = 'running'

-- name: dropped_by_op
-- What was remembered by `remember_dropped`, by op. (by batches_run)
SELECT dropped_by_op FROM runyard.batches
WHERE run_id = %(run)s ORDER BY claimed_at DESC LIMIT 1

-- name: request_cancel
-- Tell the run of a batch to stop; returns the batch if it is still open.
-- (by batches_pkey, batches_run)
UPDATE runyard.batches SET cancel_requested_at = now()
WHERE (id = %(batch)s OR run_id = %(run)s) AND status IN ('claimed', 'running')
RETURNING id, function, status, true AS cancelled

-- name: batch_of_run
-- The batch that a run works on, or was launched for. (by batches_run, batches_pkey)
SELECT id, function, status, cardinality(invocations) AS size,
    cancel_requested_at IS NOT NULL OR cancelled @> invocations AS cancelled
FROM runyard.batches
WHERE run_id = %(run)s OR (id = %(batch)s AND run_id IS NULL)
ORDER BY claimed_at DESC LIMIT 1

-- name: recent_events
-- The newest events, with their invocations, steps and waits as JSON. (by events_received_at,
-- events_pkey, invocations_event, steps_pkey, waits_invocation_id_step_key)
SELECT events.id, events.name, events.data, events.source, events.ts, events.received_at,
    coalesce(details.invocations, '[]'::jsonb) AS invocations
FROM (
    SELECT * FROM runyard.events
    WHERE (%(id)s::text IS NULL OR id = %(id)s) AND (%(name)s::text IS NULL OR name = %(name)s)
    ORDER BY received_at DESC, id DESC LIMIT %(limit)s
) AS events
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
        'id', invocations.id, 'function', invocations.function, 'status', invocations.status,
        'attempt', invocations.attempt, 'due_at', invocations.due_at,
        'run_id', invocations.run_id, 'output', CASE
            WHEN invocations.leader_id <> invocations.id
                THEN runyard.output_of_v1(invocations.leader_id)
            ELSE invocations.output END,
        'error', invocations.error, 'replay_of', invocations.replay_of,
        'leader_id', invocations.leader_id,
        'seconds', round(
            extract(epoch FROM invocations.finished_at - invocations.created_at)::numeric, 2),
        'waits', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'step', waits.step, 'kind', waits.kind, 'event', waits.event,
                'signal', waits.signal, 'until', waits.expires_at)), '[]')
            FROM runyard.waits
            WHERE waits.invocation_id = invocations.id AND waits.kind <> 'cancel'
                AND waits.resolved_at IS NULL AND invocations.status IN ('sleeping', 'waiting')),
        'steps', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'step', steps.step, 'attempt', steps.attempt, 'output', steps.output,
                'error', steps.error, 'milliseconds', round((
                    extract(epoch FROM steps.finished_at - steps.started_at) * 1000)::numeric, 1)
                ) ORDER BY steps.number), '[]')
            FROM runyard.steps WHERE steps.invocation_id = invocations.id)
    ) ORDER BY invocations.id) AS invocations
    FROM runyard.invocations WHERE invocations.event_id = events.id
) AS details ON true
ORDER BY events.received_at DESC, events.id DESC

-- name: next_expiry
-- Seconds until the next timeout, NULL if there is none. (by invocations_expiring)
SELECT extract(epoch FROM min(expires_at) - runyard.now_v1())::float8 AS seconds
FROM runyard.invocations
WHERE expires_at IS NOT NULL
    AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
    AND cancel_requested_at IS NULL

-- name: invocations_of_event
-- The invocations of an event, or one by its id, with their steps as JSON.
-- (by invocations_event, invocations_pkey, steps_pkey)
SELECT invocations.*, CASE
        WHEN leader_id <> id THEN runyard.output_of_v1(leader_id) ELSE output END AS output, (
    SELECT coalesce(jsonb_object_agg(step, jsonb_build_object(
        'output', steps.output, 'error', steps.error, 'tries', steps.tries)), '{}')
    FROM runyard.steps WHERE invocation_id = invocations.id) AS steps
FROM runyard.invocations WHERE (event_id = %(event)s OR id = %(invocation)s) ORDER BY id

-- name: events_named
-- Events of a name, oldest first. (by events_name)
SELECT id, name, data FROM runyard.events WHERE name = %(name)s ORDER BY xid, id

-- name: open_functions
-- The functions that have invocations which are not final; for tests. (a small table: scanned)
SELECT DISTINCT function FROM runyard.invocations
WHERE status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting', 'grouped') ORDER BY function

-- name: count_invocations
-- How many invocations a selection has, and the last of them; failures that were dismissed or
-- replayed only if they are named.
-- (by invocations_function, invocations_event, invocations_pkey, events_pkey)
SELECT count(*) AS count, max(invocations.id) AS upto
FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE (%(function)s::text IS NULL OR function = %(function)s) AND status = ANY (%(statuses)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)
    AND (%(error)s::text IS NULL OR invocations.error->>'message' ILIKE %(error)s)
    AND (status <> 'failed' OR dismissed_at IS NULL OR %(events)s::text[] IS NOT NULL
        OR %(invocations)s::bigint[] IS NOT NULL)
    AND (%(events)s::text[] IS NULL OR event_id = ANY (%(events)s))
    AND (%(invocations)s::bigint[] IS NULL OR invocations.id = ANY (%(invocations)s))
    AND (%(filter)s::text IS NULL OR runyard.filter_matches_v1(
        runyard.document_v1(
            events.id, events.name, events.data, events."user", events.v, events.ts),
        %(filter)s::jsonpath))

-- name: missing
-- The first of these (a function, events, invocations) that does not exist.
-- (by functions_pkey, events_pkey and invocations_pkey)
SELECT 'function' AS kind, sought AS id FROM unnest(ARRAY[%(function)s::text]) AS sought
WHERE sought IS NOT NULL
    AND NOT EXISTS (SELECT FROM runyard.functions WHERE functions.name = sought)
UNION ALL
SELECT 'event', sought FROM unnest(%(events)s::text[]) AS sought
WHERE NOT EXISTS (SELECT FROM runyard.events WHERE events.id = sought)
UNION ALL
SELECT 'invocation', sought::text FROM unnest(%(invocations)s::bigint[]) AS sought
WHERE NOT EXISTS (SELECT FROM runyard.invocations WHERE invocations.id = sought)
LIMIT 1

-- name: select_invocations
-- The next of a selection, by id. (by invocations_pkey, events_pkey)
SELECT invocations.id
FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE invocations.id > %(after)s AND invocations.id <= %(upto)s
    AND (%(function)s::text IS NULL OR function = %(function)s) AND status = ANY (%(statuses)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)
    AND (%(error)s::text IS NULL OR invocations.error->>'message' ILIKE %(error)s)
    AND (status <> 'failed' OR dismissed_at IS NULL OR %(events)s::text[] IS NOT NULL
        OR %(invocations)s::bigint[] IS NOT NULL)
    AND (%(events)s::text[] IS NULL OR event_id = ANY (%(events)s))
    AND (%(invocations)s::bigint[] IS NULL OR invocations.id = ANY (%(invocations)s))
    AND (%(filter)s::text IS NULL OR runyard.filter_matches_v1(
        runyard.document_v1(
            events.id, events.name, events.data, events."user", events.v, events.ts),
        %(filter)s::jsonpath))
ORDER BY invocations.id LIMIT %(limit)s

-- name: replayed_groups
-- Those of these invocations whose group was replayed since a bulk action began, when it came to
-- another one of the group. (by invocations_pkey, invocations_event)
SELECT invocations.id FROM runyard.invocations
JOIN runyard.invocations AS leaders
    ON leaders.id = invocations.leader_id AND leaders.id <> invocations.id
WHERE invocations.id = ANY (%(invocations)s::bigint[]) AND EXISTS (
    SELECT FROM runyard.invocations AS copies
    WHERE copies.event_id = leaders.event_id AND copies.replay_of = leaders.id
        AND copies.created_at >= %(since)s)

-- name: start_bulk
-- Record a bulk action before it begins. (by bulks_pkey)
INSERT INTO runyard.bulks (id, action, selection, upto, total, finished_at)
VALUES (%(id)s, %(action)s, %(selection)s::jsonb, %(upto)s, %(total)s,
    CASE WHEN %(total)s = 0 THEN now() END)

-- name: bulk
-- A bulk action, locked by the process that continues it. (by bulks_pkey)
SELECT * FROM runyard.bulks WHERE id = %(id)s FOR UPDATE

-- name: bulk_progress
-- Record how far a bulk action has got. (by bulks_pkey)
UPDATE runyard.bulks
SET reached = %(reached)s, done = done + %(done)s,
    finished_at = CASE WHEN %(finished)s THEN now() END
WHERE id = %(id)s
RETURNING total, done, finished_at

-- name: bulks
-- The latest bulk actions. (a small table: scanned)
SELECT id, action, selection, total, done, started_at, finished_at
FROM runyard.bulks ORDER BY id DESC LIMIT 50

-- name: replay_invocations
-- Replay invocations; returns the new ones. (by invocations_pkey)
SELECT id FROM runyard.replay_v1(%(invocations)s::bigint[], %(keep)s) AS id

-- name: cancel_invocations
-- Cancel invocations; returns how many were not final. (by invocations_pkey)
SELECT runyard.cancel_v1(%(invocations)s::bigint[], %(reason)s) AS count

-- name: run_invocations_now
-- Run invocations before their time; returns those that had time left to wait.
-- (by invocations_pkey, waits_invocation_id_step_key)
SELECT id FROM runyard.run_now_v1(%(invocations)s::bigint[]) AS id

-- name: dismiss_invocations
-- Take failures off the list of dead letters, with all of their groups; returns how many.
-- (by invocations_pkey, and as with_groups_v1)
WITH dismissed AS (
    UPDATE runyard.invocations SET dismissed_at = runyard.now_v1()
    WHERE id = ANY (ARRAY(SELECT unnest(runyard.with_groups_v1(%(invocations)s::bigint[]))))
        AND status = 'failed' AND dismissed_at IS NULL
    RETURNING id
)
SELECT count(*) AS count FROM dismissed

-- name: dead_letters
-- Final failures that were neither replayed nor dismissed, newest first.
-- (by invocations_failed, events_pkey)
SELECT * FROM runyard.dead_letters
WHERE (%(function)s::text IS NULL OR function = %(function)s)
    AND (%(invocation)s::bigint IS NULL OR id = %(invocation)s)
ORDER BY id DESC LIMIT %(limit)s

-- name: invocations_of_function
-- All invocations of a function, oldest first; for tests. (by invocations_function)
SELECT id FROM runyard.invocations WHERE function = %(function)s ORDER BY created_at, id

-- name: runs_of_events
-- The runs that worked on these events. (by invocations_event)
SELECT DISTINCT run_id FROM runyard.invocations
WHERE event_id = ANY (%(events)s) AND run_id IS NOT NULL
