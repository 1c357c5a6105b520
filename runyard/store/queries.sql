-- Every statement of the engine. Parameters are %(named)s; a literal per cent sign is written twice.
-- Hot ones take arrays: one statement a batch, never one a row.

-- name: send
-- Insert a JSON array of events; gives the id of each, in order. (by events_pkey and events_idempotency_key)
SELECT id FROM runyard.send_v1(%(events)s::jsonb, %(source)s) AS id

-- name: register_functions
-- Write the functions that the code has. (by functions_pkey)
INSERT INTO runyard.functions (name, job, triggers, exact, has_patterns, max_batch, priority, attempts, flow, key_paths, uses_lanes, needs_admission, location, active, registered_at)
SELECT name, job, triggers, exact, has_patterns, max_batch, priority, attempts, flow, key_paths, uses_lanes, needs_admission, %(location)s, true, now()
FROM jsonb_to_recordset(%(functions)s::jsonb) AS declared (
    name text, job text, triggers text[], exact text[], has_patterns boolean, max_batch integer, priority smallint, attempts smallint,
    flow jsonb, key_paths jsonb, uses_lanes boolean, needs_admission boolean)
ON CONFLICT (name) DO UPDATE SET
    job = excluded.job, triggers = excluded.triggers, exact = excluded.exact, has_patterns = excluded.has_patterns, max_batch = excluded.max_batch,
    priority = excluded.priority, attempts = excluded.attempts, flow = excluded.flow, key_paths = excluded.key_paths, uses_lanes = excluded.uses_lanes,
    needs_admission = excluded.needs_admission, location = excluded.location, active = true, registered_at = now()

-- name: register_triggers
-- Write the triggers of these functions anew. (by triggers_function)
WITH declared AS (
    SELECT * FROM jsonb_to_recordset(%(functions)s::jsonb) AS declared (name text, rules jsonb)
),
gone AS (
    DELETE FROM runyard.triggers WHERE function IN (SELECT name FROM declared)
)
INSERT INTO runyard.triggers (function, event, wildcard, filter)
SELECT declared.name, rule.event, rule.wildcard, rule.filter::jsonpath
FROM declared CROSS JOIN LATERAL jsonb_to_recordset(declared.rules) AS rule (event text, wildcard boolean, filter text)

-- name: rekey
-- Give what waits with other keys than those of its function's flow control the present ones, so many of a function at a time, and wake those
-- functions; gives the most that one of them had. (by invocations_keyed, invocations_due; functions is a small table: scanned)
WITH rekeyed AS (
    SELECT name, runyard.rekey_v1(name, %(limit)s) AS count FROM runyard.functions WHERE runyard.has_stale_keys_v1(functions)
)
SELECT max(count) AS count, runyard.wake_v1(string_agg(name, ',')) FROM rekeyed WHERE count > 0 HAVING count(*) > 0

-- name: pause
-- Hold a function's invocations back, or let them go (what is paused already stays so since then). (by functions_pkey)
UPDATE runyard.functions SET paused_at = CASE WHEN %(paused)s THEN coalesce(paused_at, now()) END WHERE name = %(function)s
RETURNING name, runyard.wake_v1(name)

-- name: record_publication
-- Note a version of a code location by what it has; gives whether it is the newest one, rather than an older one that runs again. (by publications_pkey)
WITH made AS (
    INSERT INTO runyard.publications (location, digest) VALUES (%(location)s, %(digest)s) ON CONFLICT DO NOTHING RETURNING digest
)
SELECT EXISTS (SELECT FROM made)
    OR (SELECT digest FROM runyard.publications WHERE location = %(location)s ORDER BY at DESC LIMIT 1) = %(digest)s AS newest

-- name: retire_functions
-- The functions of a code location that it no longer has get no new invocations. (a small table: scanned)
UPDATE runyard.functions SET active = false WHERE active AND location = %(location)s AND NOT name = ANY (%(names)s)

-- name: restored_functions
-- The functions that were away and are there again, until all that came meanwhile has been taken up. (a small table: scanned)
SELECT name FROM runyard.functions WHERE active AND restored_snapshot IS NOT NULL

-- name: catch_up
-- Start a function that was away for what came meanwhile, so many events at a time; gives where to go on. (by events_received_at, invocations_event)
SELECT runyard.catch_up_v1(%(function)s, %(after)s, %(limit)s) AS last

-- name: functions
-- Every function with what is waiting and what failed. (by invocations_due, invocations_delayed, invocations_lane, invocations_arrived and invocations_failed)
SELECT functions.*,
    (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND status = 'queued')
    + (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND lane IS NOT NULL)
    + (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND NOT admitted AND status = 'queued')
    + (SELECT count(*) FROM runyard.invocations WHERE function = functions.name
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL AND admitted AND status = 'queued') AS queued,
    (SELECT count(*) FROM runyard.invocations WHERE function = functions.name AND status = 'failed' AND dismissed_at IS NULL) AS failed
FROM runyard.functions ORDER BY name

-- name: claim
-- Lock the due invocations of a function, highest priority first, then oldest; skip what another claim holds.
-- Sleepers whose time has come are due like any other; those of a function that is paused, or whose launches fail, wait.
-- One index scan a priority level, so invocations that are not due yet are never walked over.
-- What has lost two workers is suspect, and runs apart from the others, beside them, so that it takes
-- none with it and holds none up (`alone`): see runyard.suspects_v1, which only plans where there is any.
-- (by invocations_due, invocations_suspects, and as suspects_v1)
WITH RECURSIVE held AS (
    SELECT runyard.held_until_v1(%(function)s) AS until
),
suspects AS (
    SELECT id FROM runyard.suspects_v1(%(function)s, %(max_batch)s) AS id
    WHERE (SELECT until FROM held) IS NULL AND EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = %(function)s AND crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting'))
),
levels AS (
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND (SELECT until FROM held) IS NULL AND NOT EXISTS (SELECT FROM suspects)
        AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0 AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
     ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT invocations.priority FROM runyard.invocations
            WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
                AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND invocations.priority < levels.priority
            ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
),
due AS (
    SELECT found.* FROM levels CROSS JOIN LATERAL (
        SELECT id FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND priority = levels.priority AND due_at <= runyard.now_v1()
        ORDER BY due_at, id LIMIT %(max_batch)s FOR UPDATE SKIP LOCKED
    ) AS found
    LIMIT %(max_batch)s
),
taken AS (
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE id IN (SELECT id FROM suspects UNION ALL SELECT id FROM due) RETURNING id, event_id, run_id
),
batch AS (
    INSERT INTO runyard.batches (id, function, invocations)
    SELECT %(batch)s, %(function)s, array_agg(id) FROM taken HAVING count(*) > 0
)
SELECT count(*) AS size, min(event_id) AS event_id, CASE WHEN min(run_id) = max(run_id) THEN min(run_id) END AS previous_run,
    EXISTS (SELECT FROM suspects) AS alone
FROM taken

-- name: claim_lanes
-- As `claim`, for a function with flow control: within its limits, in turn from lane to lane. (by invocations_lane)
SELECT size, event_id, previous_run, more, alone FROM runyard.claim_v1(%(function)s, %(batch)s, %(max_batch)s, %(just)s::bigint[])

-- name: claim_invocations
-- Claim these invocations of a function without flow control, for a run that was launched for them. (by invocations_pkey)
WITH taken AS (
    UPDATE runyard.invocations SET status = 'claimed', batch_id = %(batch)s
    WHERE id = ANY (%(just)s) AND function = %(function)s AND status = 'queued' RETURNING id
),
made AS (
    INSERT INTO runyard.batches (id, function, invocations, launched_at)
    SELECT %(batch)s, %(function)s, array_agg(id), clock_timestamp() FROM taken HAVING count(*) > 0
)
SELECT count(*) AS size FROM taken

-- name: invocations_of_events
-- The invocations of these events for one function. (by invocations_event)
SELECT id FROM runyard.invocations WHERE event_id = ANY (%(events)s) AND function = %(function)s

-- name: replay_batch
-- The events of a batch again, as new invocations. (by batches_pkey, invocations_pkey)
SELECT made AS id FROM runyard.batches, runyard.replay_v1(batches.invocations) AS made WHERE batches.id = %(parent)s

-- name: requeue_batch
-- Take up again what a batch left behind: its invocations that failed, were cancelled, or wait for another attempt. (by batches_pkey, invocations_pkey)
SELECT due AS id FROM runyard.batches, runyard.requeue_v1(batches.invocations) AS due WHERE batches.id = %(parent)s

-- name: next_due
-- Seconds until the next invocation of a function is due, the first of each priority level, or until what holds it back is over; NULL for none, while it
-- is paused, and where only the end of a run can tell. (by invocations_due, invocations_crashed, invocations_crashing)
WITH RECURSIVE held AS (
    SELECT runyard.held_until_v1(%(function)s) AS until
),
levels AS (
    (SELECT priority FROM runyard.invocations
     WHERE function = %(function)s AND (SELECT until FROM held) IS NULL
        AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0 AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
     ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT invocations.priority FROM runyard.invocations
            WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
                AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND invocations.priority < levels.priority
            ORDER BY invocations.priority DESC LIMIT 1)
    FROM levels WHERE levels.priority IS NOT NULL
),
firsts AS (
    SELECT first.due_at FROM levels CROSS JOIN LATERAL (
        SELECT due_at FROM runyard.invocations
        WHERE function = %(function)s AND CASE WHEN crashes < 2 THEN 0 ELSE 1 END = 0
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND priority = levels.priority ORDER BY due_at, id LIMIT 1
    ) AS first
    UNION ALL
    (SELECT due_at FROM runyard.invocations
     WHERE function = %(function)s AND crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND (SELECT until FROM held) IS NULL
        AND NOT EXISTS (
            SELECT FROM runyard.invocations AS others WHERE others.function = %(function)s AND others.crashes >= 2 AND others.status IN ('claimed', 'running'))
     ORDER BY due_at, id LIMIT 1)
    UNION ALL
    SELECT until FROM held WHERE isfinite(until)
)
SELECT extract(epoch FROM min(due_at) - runyard.now_v1())::float8 AS seconds FROM firsts

-- name: next_due_lanes
-- As `next_due`, for a function with flow control. (by invocations_delayed)
SELECT runyard.next_due_v1(%(function)s) AS seconds

-- name: capacity
-- Runs that the living workers can do at a time, batches that wait for one, batches under way. A claim that was not launched in its time waits for
-- nothing: whoever made it is gone. (by batches_open)
SELECT
    (SELECT coalesce(sum(slots), 0) FROM runyard.workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)) AS slots,
    (SELECT count(*) FROM runyard.batches WHERE status = 'claimed'
        AND (launched_at IS NOT NULL OR claimed_at > now() - make_interval(secs => %(launch)s))) AS waiting,
    (SELECT count(*) FROM runyard.batches WHERE status = 'running') AS running

-- name: mark_launched
-- Write down that the run of a batch is given to the broker; where that did not happen (`marked`), its
-- status as it was. The row is locked first: an UPDATE that waits for a lock writes the time at which
-- its wait began. (by batches_pkey)
WITH claimed AS (
    SELECT id FROM runyard.batches WHERE id = %(batch)s AND status = 'claimed' FOR NO KEY UPDATE
),
launched AS (
    UPDATE runyard.batches SET launched_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    FROM claimed WHERE batches.id = claimed.id RETURNING batches.id
)
SELECT EXISTS (SELECT FROM launched) AS marked, status FROM runyard.batches WHERE id = %(batch)s

-- name: unlaunched_batches
-- Batches that were claimed, and whose run nobody has launched in time. (by batches_open)
SELECT id, function, status, run_id, cancel_requested_at IS NOT NULL AS cancelled, extract(epoch FROM now() - claimed_at)::float8 AS age FROM runyard.batches
WHERE status = 'claimed' AND launched_at IS NULL AND claimed_at <= now() - make_interval(secs => %(seconds)s)
    AND (%(functions)s::text[] IS NULL OR function = ANY (%(functions)s))
ORDER BY claimed_at LIMIT 100

-- name: begin
-- A run takes its batch: refused (no row) when the lease is gone or another run has it. Where launches of its function have failed before, they work
-- again, and what waits is claimed. (by batches_pkey, failed_launches_pkey)
WITH free AS (  -- locked first, as for `launching`
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
    DELETE FROM runyard.failed_launches WHERE function = (SELECT function FROM begun) RETURNING runyard.wake_v1(function)
)
SELECT id, function FROM begun

-- name: begin_invocations
-- The invocations of a batch start an attempt; gives them with their events. (by invocations_pkey, events_pkey)
WITH before AS (
    SELECT id, started_at IS NOT NULL OR replay_of IS NOT NULL AS seen, run_id FROM runyard.invocations
    WHERE id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(batch)s)
        AND batch_id = %(batch)s AND status IN ('claimed', 'running')
),
started AS (
    UPDATE runyard.invocations
    SET status = 'running', run_id = %(run)s, attempt = invocations.attempt + (status = 'claimed')::integer,
        since = coalesce(since, pg_current_snapshot()), started_at = coalesce(started_at, runyard.now_v1()),
        expires_at = CASE WHEN started_at IS NULL THEN runyard.now_v1() + make_interval(secs => %(finish_timeout)s::float8) ELSE expires_at END
    FROM before
    WHERE invocations.id = before.id AND invocations.id = ANY (SELECT unnest(invocations) FROM runyard.batches WHERE id = %(batch)s)
    RETURNING invocations.id, event_id, attempt, replay_of, due_at, priority, crashes, cancel_requested_at IS NOT NULL AS cancelled, before.seen, before.run_id AS previous_run
)
SELECT started.id, started.event_id, started.attempt, started.crashes, started.cancelled, started.seen, started.previous_run, events.name, events.data, events."user" AS user_data, events.v,
    (extract(epoch FROM events.ts) * 1000)::bigint AS ts
FROM started JOIN runyard.events ON events.id = started.event_id
ORDER BY started.priority DESC, started.due_at, started.id

-- name: recorded_steps
-- What the steps of these invocations have given so far, in the order in which they were kept: the clocks of two workers may
-- differ by more than a step takes. (by steps_pkey)
SELECT invocation_id, step, output, error, run_id, tries FROM runyard.steps WHERE invocation_id = ANY (%(invocations)s) ORDER BY number

-- name: record_steps
-- Keep results of one step; refused (no row) when the lease is gone. An output that is kept is never replaced, and an error that is written again,
-- because the answer to the first time was lost, is one try. (by steps_pkey, batches_pkey)
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
        tries = steps.tries + ((steps.run_id, steps.finished_at) IS DISTINCT FROM (excluded.run_id, excluded.finished_at))::integer,
        started_at = excluded.started_at, finished_at = excluded.finished_at, number = excluded.number
    WHERE steps.error IS NOT NULL
)
SELECT id FROM lease

-- name: settle
-- Write the outcome of every invocation of a batch and end its lease (or of some, in a transaction that `ends` it later); refused (no row) when the lease
-- is gone.
-- The lease alone is the fence: a condition on invocations.batch_id here makes the planner think of one row, and scan the table.
-- What suspends is due when the first of its waits is over, or at once where one has been resolved meanwhile.
-- (by batches_pkey, invocations_pkey, waits_invocation_id_step_key)
WITH lease AS (
    UPDATE runyard.batches
    SET status = CASE WHEN %(ends)s THEN 'finished' ELSE status END, finished_at = CASE WHEN %(ends)s THEN now() END
    WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' RETURNING id
),
suspended AS (
    SELECT waits.invocation_id, CASE WHEN bool_or(waits.resolved_at IS NOT NULL) THEN runyard.now_v1() ELSE min(waits.expires_at) END AS due_at
    FROM unnest(%(suspended)s::bigint[], %(steps)s::text[]) AS at (invocation_id, step)
    JOIN runyard.waits ON waits.invocation_id = at.invocation_id AND waits.step = at.step GROUP BY 1
),
outcomes AS (
    SELECT outcome.*, suspended.due_at AS wakes FROM unnest(
        %(invocations)s::bigint[], %(statuses)s::text[], %(delays)s::float8[], %(attempts)s::smallint[], %(outputs)s::text[], %(errors)s::text[]
    ) AS outcome (invocation_id, status, delay, attempt, output, error) LEFT JOIN suspended USING (invocation_id)
),
settled AS (
    UPDATE runyard.invocations
    SET status = CASE WHEN outcome.status IN ('queued', 'sleeping', 'waiting') AND cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE outcome.status END,
        batch_id = NULL, output = outcome.output::jsonb, crashes = 0, suspect = NULL, attempt = coalesce(outcome.attempt, invocations.attempt),
        error = CASE WHEN cancel_requested_at IS NOT NULL AND outcome.status <> 'succeeded' THEN invocations.error ELSE outcome.error::jsonb END,
        since = CASE WHEN outcome.status IN ('sleeping', 'waiting') THEN NULL ELSE since END,
        due_at = CASE WHEN outcome.status = 'queued' THEN runyard.now_v1() + make_interval(secs => outcome.delay) ELSE coalesce(outcome.wakes, due_at) END,
        finished_at = CASE WHEN outcome.status IN ('queued', 'sleeping', 'waiting') AND cancel_requested_at IS NULL THEN NULL ELSE runyard.now_v1() END
    FROM outcomes AS outcome
    WHERE invocations.id = outcome.invocation_id AND invocations.id = ANY (%(invocations)s::bigint[]) AND EXISTS (SELECT FROM lease)
),
left_unfinished AS (
    INSERT INTO runyard.run_segments (invocation_id, run_id, status, error)
    SELECT invocation_id, %(run)s, status, error::jsonb FROM outcomes
    WHERE status IN ('queued', 'sleeping', 'waiting') AND EXISTS (SELECT FROM lease)
)
SELECT id, runyard.wake_v1('') FROM lease

-- name: heartbeat
-- Renew the leases of these batches, also of those whose run is on its way to them; gives those that are
-- still held, whether their run has begun and was told to stop, and which invocations were cancelled. One that another transaction has locked is left for the
-- next time: none waits for another, and a lease lasts for many beats. (by batches_pkey)
WITH free AS (
    SELECT id FROM runyard.batches
    WHERE id = ANY (%(batches)s) AND status IN ('claimed', 'running') FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE runyard.batches SET heartbeat_at = clock_timestamp() WHERE id IN (SELECT id FROM free)
)
SELECT id, status = 'running' AS begun, cancel_requested_at IS NOT NULL OR cancelled @> invocations AS stopped, cancelled
FROM runyard.batches WHERE id = ANY (%(batches)s) AND status IN ('claimed', 'running')

-- name: heartbeat_worker
-- A worker says that it is alive. (by workers_pkey)
INSERT INTO runyard.workers (name, host, pid, slots, pid_namespace) VALUES (%(name)s, %(host)s, %(pid)s, %(slots)s, %(pid_namespace)s)
ON CONFLICT (name) DO UPDATE SET host = excluded.host, pid = excluded.pid, pid_namespace = excluded.pid_namespace, slots = excluded.slots, heartbeat_at = clock_timestamp(),
    started_at = CASE WHEN workers.pid = excluded.pid THEN workers.started_at ELSE clock_timestamp() END

-- name: batches_on_host
-- Batches that run in processes of this place: of the worker itself, and of others that are silent for some seconds; and those that are settled, while
-- their run has not ended. (by batches_open, batches_ending; workers is a small table: scanned)
SELECT batches.id, batches.function, batches.status, batches.run_id, batches.worker, batches.cancel_requested_at IS NOT NULL AS cancelled
FROM runyard.batches JOIN runyard.workers ON starts_with(batches.worker, workers.name || ':')
WHERE batches.status = 'running' AND workers.pid_namespace = %(pid_namespace)s
    AND (workers.name = %(name)s OR batches.heartbeat_at < now() - make_interval(secs => %(silent)s))
UNION ALL
SELECT batches.id, batches.function, batches.status, batches.run_id, batches.worker, false
FROM runyard.batches JOIN runyard.workers ON starts_with(batches.worker, workers.name || ':')
WHERE batches.status = 'finished' AND batches.ended_at IS NULL AND batches.run_id IS NOT NULL AND workers.pid_namespace = %(pid_namespace)s

-- name: hand_back
-- Give back what processes of a worker that stops are still doing: no attempt is counted. It is due when that worker is gone, which would take it
-- again with a slot that is free; gives the runs.
-- (by batches_open, invocations_pkey)
WITH leases AS (
    UPDATE runyard.batches SET status = 'lost', finished_at = now()
    WHERE status = 'running' AND starts_with(worker, %(name)s || ':') RETURNING id, invocations, run_id
),
held AS (
    SELECT unnest(invocations) AS id, leases.id AS batch_id, run_id FROM leases
),
freed AS (
    UPDATE runyard.invocations SET batch_id = NULL, attempt = greatest(0, attempt - 1),
        status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_requested_at IS NOT NULL THEN runyard.now_v1() END,
        due_at = greatest(due_at, runyard.now_v1() + interval '4 seconds')
    FROM held WHERE invocations.id = held.id AND invocations.id = ANY (SELECT id FROM held) AND invocations.batch_id = held.batch_id AND status = 'running'
    RETURNING invocations.id, invocations.status, held.run_id
),
left_unfinished AS (
    INSERT INTO runyard.run_segments (invocation_id, run_id, status) SELECT id, run_id, 'lost' FROM freed WHERE status = 'queued'
)
SELECT run_id, runyard.wake_v1('') FROM leases

-- name: delete_worker
-- A worker that stops in order is known no more. (by workers_pkey)
DELETE FROM runyard.workers WHERE name = %(name)s AND pid = %(pid)s

-- name: workers
-- The workers that were heard of within a day, and how long ago. (a small table: scanned)
SELECT name, host, pid, slots, extract(epoch FROM now() - heartbeat_at)::float8 AS silent FROM runyard.workers
WHERE heartbeat_at > now() - interval '1 day' ORDER BY name

-- name: overdue_batches
-- Batches whose worker fell silent, or whose run never began though a slot was free for it; one reaper at a time.
-- A batch that waits in the broker behind others is left alone: all slots are busy then, be it with the end of a run whose batch is settled.
-- (by batches_open, batches_ending)
WITH alive AS (
    SELECT (SELECT coalesce(sum(slots), 0) FROM runyard.workers WHERE heartbeat_at > now() - make_interval(secs => %(lease)s)) AS slots,
        (SELECT count(*) FROM runyard.batches WHERE status = 'running' AND heartbeat_at > now() - make_interval(secs => %(lease)s))
        + (SELECT count(*) FROM runyard.batches
            WHERE status = 'finished' AND ended_at IS NULL AND finished_at > now() - make_interval(secs => %(lease)s))
        + (SELECT count(*) FROM runyard.batches  -- those that a worker is on its way to
            WHERE status = 'claimed' AND heartbeat_at > now() - make_interval(secs => %(lease)s)
                AND launched_at < now() - make_interval(secs => %(lease)s)) AS running
)
SELECT id, function, status, run_id, cancel_requested_at IS NOT NULL AS cancelled FROM runyard.batches
WHERE status IN ('claimed', 'running') AND heartbeat_at < now() - make_interval(secs => %(lease)s)
    AND (status = 'running' OR cancel_requested_at IS NOT NULL OR (SELECT slots = 0 OR slots > running FROM alive))
ORDER BY heartbeat_at LIMIT 100

-- name: mark_run_ended
-- A process is free again: the run of its batch has ended, too. (by batches_run)
UPDATE runyard.batches SET ended_at = now() WHERE run_id = %(run)s AND ended_at IS NULL

-- name: batches_with_open_runs
-- Batches that are over while their run may never end, for its process is gone: of a worker that is not heard of, or a lost lease. (by batches_ending;
-- workers is a small table: scanned)
SELECT id, run_id, status FROM runyard.batches
WHERE ended_at IS NULL AND status IN ('finished', 'lost') AND finished_at < now() - make_interval(secs => 2 * %(lease)s)
    AND run_id IS NOT NULL AND worker LIKE '%%:%%:%%'
    AND (status = 'lost' OR NOT EXISTS (
        SELECT FROM runyard.workers WHERE starts_with(batches.worker, workers.name || ':') AND heartbeat_at > now() - make_interval(secs => %(lease)s)))
ORDER BY finished_at LIMIT 20

-- name: release
-- Take the lease away and end or requeue what it held: 'queued' or 'cancelled'; those that began and are out of attempts fail. What never began keeps
-- its attempts and its place.
-- `crashed` adds one to the workers that were lost. It costs an attempt only where the invocation was
-- alone in the run: of several, nobody knows which one it was. From the second on they are suspects:
-- searched, if no others are; those that were searched beside them are not any more, for the culprit
-- was here. `failed` holds the function back: its runs do not come to begin.
-- No row when another was first, or the worker came back.
-- (by batches_pkey, invocations_pkey, invocations_bisecting, failed_launches_pkey)
WITH lease AS (
    UPDATE runyard.batches SET status = 'lost', finished_at = now()
    WHERE id = %(batch)s AND status = %(expected)s AND (%(force)s OR heartbeat_at < now() - make_interval(secs => %(lease)s))
    RETURNING id, function, invocations, run_id
),
found AS (
    SELECT id, attempt, suspect, %(status)s = 'queued' AND status = 'running' AS began,
        %(crashed)s AND %(status)s = 'queued' AS lost, count(*) OVER () > 1 AS in_company
    FROM runyard.invocations
    WHERE invocations.id = ANY (SELECT unnest(invocations) FROM lease) AND batch_id = %(batch)s
        AND status IN ('claimed', 'running')
),
held AS (
    SELECT id, lost, lost AND in_company AS unclear,
        began AND attempt >= %(attempts)s AND NOT (lost AND in_company) AS spent
    FROM found
),
search AS (
    SELECT EXISTS (SELECT FROM found WHERE lost AND suspect = 'bisecting') AS was_here,
        EXISTS (
            SELECT FROM runyard.invocations
            WHERE function = (SELECT function FROM lease) AND suspect = 'bisecting'
                AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')) AS goes_on
),
cleared AS (
    UPDATE runyard.invocations SET suspect = NULL
    WHERE (SELECT was_here FROM search) AND function = (SELECT function FROM lease)
        AND suspect = 'bisecting' AND status IN ('queued', 'sleeping', 'waiting')
),
freed AS (
    UPDATE runyard.invocations SET
        batch_id = NULL,
        crashes = crashes + lost::integer,
        suspect = CASE
            WHEN NOT lost OR crashes = 0 THEN suspect
            WHEN NOT unclear THEN 'isolated'
            WHEN was_here OR NOT goes_on THEN 'bisecting' END,
        attempt = attempt - (unclear AND status = 'running')::integer,
        status = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' WHEN spent THEN 'failed' ELSE %(status)s END,
        due_at = CASE WHEN %(status)s = 'queued' AND status = 'running' THEN runyard.now_v1() + make_interval(secs => %(delay)s) ELSE due_at END,
        error = CASE
            WHEN cancel_requested_at IS NOT NULL THEN error
            WHEN lost AND spent AND crashes > 0
                THEN coalesce(%(error)s::jsonb, '{}') || jsonb_build_object('message', format(
                    '%%s workers were lost while it ran, the last one with nothing else in the run: '
                    'most likely a step of it ends its process (out of memory, a crash in native code); '
                    'mend that, then replay it', crashes + 1))
            ELSE coalesce(%(error)s::jsonb, error) END,
        finished_at = CASE WHEN %(status)s = 'queued' AND NOT spent AND cancel_requested_at IS NULL THEN NULL ELSE runyard.now_v1() END
    FROM held CROSS JOIN search WHERE invocations.id = held.id
    RETURNING invocations.id, invocations.status
),
left_unfinished AS (
    INSERT INTO runyard.run_segments (invocation_id, run_id, status, error)
    SELECT freed.id, lease.run_id, 'lost', %(error)s::jsonb FROM freed CROSS JOIN lease WHERE freed.status = 'queued' AND lease.run_id IS NOT NULL
),
held_back AS (
    INSERT INTO runyard.failed_launches AS known (function, failures, until, error)
    SELECT function, 1, runyard.now_v1() + make_interval(secs => %(first_delay)s), %(error)s::jsonb FROM lease WHERE %(failed)s
    ON CONFLICT (function) DO UPDATE SET error = excluded.error,
        failures = known.failures + (known.until <= runyard.now_v1())::integer,
        until = CASE WHEN known.until > runyard.now_v1() THEN known.until
            ELSE runyard.now_v1() + make_interval(secs => least(%(most_delay)s, %(first_delay)s * 2.0 ^ least(known.failures, 30))) END
)
SELECT function, (SELECT count(*) FROM freed) AS size, runyard.wake_v1('') FROM lease

-- name: expired
-- Cancel what a timeout has caught, so many at a time; gives how many. (by invocations_expiring)
SELECT runyard.cancel_v1(array_agg(id), 'timeout: it did not begin or end in time') AS count FROM (
    SELECT id FROM runyard.invocations
    WHERE expires_at <= runyard.now_v1() AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') AND cancel_requested_at IS NULL
    ORDER BY expires_at LIMIT %(limit)s
) AS late HAVING count(*) > 0

-- name: apply_deferred_requests
-- Do what SQL asked of invocations and could not be done in its transaction; gives how much. (runyard.requests is as good as empty: scanned)
SELECT runyard.apply_requests_v1(true) AS count

-- name: match
-- Match the events that came since the last call with what waits for events; nothing where nothing waits. (by waits_event, events_name)
SELECT CASE WHEN EXISTS (SELECT FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL)
    THEN (SELECT runyard.match_v1() FROM runyard.lock_waits_v1()) ELSE 0 END AS count

-- name: from_another_cluster
-- Whether the tables were restored from a cluster that was ahead of this one. (by events_received_at)
SELECT runyard.from_another_cluster_v1() AS moved

-- name: purge
-- Rows that mean nothing any more: gates of keys that are quiet, waits that outlived their invocation. (gates and waits are scanned)
WITH quiet AS (
    DELETE FROM runyard.flow_control_state AS state WHERE until < runyard.now_v1() - interval '1 hour' AND kind <> 'singleton'
)
DELETE FROM runyard.waits WHERE id IN (
    SELECT waits.id FROM runyard.waits JOIN runyard.invocations ON invocations.id = waits.invocation_id
    WHERE waits.expires_at < runyard.now_v1() - interval '1 hour' AND invocations.status IN ('succeeded', 'failed', 'cancelled', 'skipped')
    LIMIT 1000 FOR UPDATE OF waits SKIP LOCKED
)

-- name: lock_waits
-- Held by whoever registers waits, suspends invocations or matches events: then none misses the other. (an advisory lock, nothing scanned)
SELECT runyard.lock_waits_v1()

-- name: lock_lease
-- Whether a run still has its batch, held so until the transaction ends; no row when not. (by batches_pkey)
SELECT id FROM runyard.batches WHERE id = %(batch)s AND run_id = %(run)s AND status = 'running' FOR SHARE

-- name: registered_waits
-- Which of these invocations have registered this wait before. (by waits_invocation_id_step_key)
SELECT invocation_id FROM runyard.waits WHERE step = %(step)s AND invocation_id = ANY (%(invocations)s)

-- name: wait
-- Register what invocations wait for, each once; gives how each wait stands. (by waits_invocation_id_step_key)
SELECT invocation_id, done, expired, result, extract(epoch FROM due_at)::float8 AS due FROM runyard.wait_v1(%(step)s, %(waits)s::jsonb)

-- name: remember_dropped
-- Remember which invocations had left a batch when an op ended, and what they wait for, for ops in other processes. (by batches_run)
UPDATE runyard.batches SET dropped_by_op = dropped_by_op || jsonb_build_object(%(op)s::text, %(left)s::jsonb) WHERE run_id = %(run)s AND status = 'running'

-- name: dropped_by_op
-- What was remembered so, by op. (by batches_run)
SELECT dropped_by_op FROM runyard.batches WHERE run_id = %(run)s ORDER BY claimed_at DESC LIMIT 1

-- name: request_cancel
-- Tell the run of a batch to stop; gives the batch where it is still open. (by batches_pkey, batches_run)
UPDATE runyard.batches SET cancel_requested_at = now()
WHERE (id = %(batch)s OR run_id = %(run)s) AND status IN ('claimed', 'running')
RETURNING id, function, status, true AS cancelled

-- name: batch_of_run
-- The batch that a run works on, or was launched for. (by batches_run, batches_pkey)
SELECT id, function, status, cardinality(invocations) AS size, cancel_requested_at IS NOT NULL OR cancelled @> invocations AS cancelled FROM runyard.batches
WHERE run_id = %(run)s OR (id = %(batch)s AND run_id IS NULL)
ORDER BY claimed_at DESC LIMIT 1

-- name: recent_events
-- The newest events, with their invocations, steps and waits as JSON. (by events_received_at, events_pkey, invocations_event, steps_pkey, waits_invocation_id_step_key)
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
        'seconds', round(extract(epoch FROM invocations.finished_at - invocations.created_at)::numeric, 2),
        'waits', (SELECT coalesce(jsonb_agg(jsonb_build_object('step', waits.step, 'kind', waits.kind, 'event', waits.event, 'until', waits.expires_at)), '[]')
            FROM runyard.waits WHERE waits.invocation_id = invocations.id AND waits.kind <> 'cancel' AND waits.resolved_at IS NULL AND invocations.status IN ('sleeping', 'waiting')),
        'steps', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'step', steps.step, 'attempt', steps.attempt, 'output', steps.output, 'error', steps.error,
            'milliseconds', round((extract(epoch FROM steps.finished_at - steps.started_at) * 1000)::numeric, 1)
        ) ORDER BY steps.number), '[]') FROM runyard.steps WHERE steps.invocation_id = invocations.id)
    ) ORDER BY invocations.id) AS invocations
    FROM runyard.invocations WHERE invocations.event_id = events.id
) AS found ON true
ORDER BY events.received_at DESC, events.id DESC

-- name: runs_of_events
-- The runs that worked on these events. (by invocations_event)
SELECT DISTINCT run_id FROM runyard.invocations WHERE event_id = ANY (%(events)s) AND run_id IS NOT NULL

-- name: next_expiry
-- Seconds until the next timeout, NULL where none is set. (by invocations_expiring)
SELECT extract(epoch FROM min(expires_at) - runyard.now_v1())::float8 AS seconds FROM runyard.invocations
WHERE expires_at IS NOT NULL AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') AND cancel_requested_at IS NULL

-- name: invocations_of_event
-- The invocations of an event, or one by its id, with their steps as JSON. (by invocations_event, invocations_pkey, steps_pkey)
SELECT invocations.*,
    (SELECT coalesce(jsonb_object_agg(step, jsonb_build_object('output', steps.output, 'error', steps.error, 'tries', steps.tries)), '{}')
     FROM runyard.steps WHERE invocation_id = invocations.id) AS steps
FROM runyard.invocations WHERE (event_id = %(event)s OR id = %(invocation)s) ORDER BY id

-- name: events_named
-- Events of a name, oldest first. (by events_name)
SELECT id, name, data FROM runyard.events WHERE name = %(name)s ORDER BY xid, id

-- name: open_functions
-- The functions that have invocations which are not final; for tests. (a small table: scanned)
SELECT DISTINCT function FROM runyard.invocations WHERE status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') ORDER BY function

-- name: count_invocations
-- How many invocations a selection meets, and the last of them; failures that were dealt with only where they are named. (by invocations_function, invocations_event, invocations_pkey, events_pkey)
SELECT count(*) AS count, max(invocations.id) AS upto FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE (%(function)s::text IS NULL OR function = %(function)s) AND status = ANY (%(statuses)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s) AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)
    AND (%(error)s::text IS NULL OR invocations.error->>'message' ILIKE %(error)s)
    AND (status <> 'failed' OR dismissed_at IS NULL OR %(events)s::text[] IS NOT NULL OR %(invocations)s::bigint[] IS NOT NULL)
    AND (%(events)s::text[] IS NULL OR event_id = ANY (%(events)s)) AND (%(invocations)s::bigint[] IS NULL OR invocations.id = ANY (%(invocations)s))
    AND (%(filter)s::text IS NULL OR runyard.filter_matches_v1(runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), %(filter)s::jsonpath))

-- name: missing
-- A function, an event or an invocation of these that there is not. (by functions_pkey, events_pkey and invocations_pkey)
SELECT 'function' AS kind, given AS id FROM unnest(ARRAY[%(function)s::text]) AS given
WHERE given IS NOT NULL AND NOT EXISTS (SELECT FROM runyard.functions WHERE functions.name = given)
UNION ALL
SELECT 'event', given FROM unnest(%(events)s::text[]) AS given WHERE NOT EXISTS (SELECT FROM runyard.events WHERE events.id = given)
UNION ALL
SELECT 'invocation', given::text FROM unnest(%(invocations)s::bigint[]) AS given WHERE NOT EXISTS (SELECT FROM runyard.invocations WHERE invocations.id = given)
LIMIT 1

-- name: select_invocations
-- The next of a selection, by id. (by invocations_pkey, events_pkey)
SELECT invocations.id FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
WHERE invocations.id > %(after)s AND invocations.id <= %(upto)s
    AND (%(function)s::text IS NULL OR function = %(function)s) AND status = ANY (%(statuses)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s) AND (%(before)s::timestamptz IS NULL OR created_at < %(before)s)
    AND (%(error)s::text IS NULL OR invocations.error->>'message' ILIKE %(error)s)
    AND (status <> 'failed' OR dismissed_at IS NULL OR %(events)s::text[] IS NOT NULL OR %(invocations)s::bigint[] IS NOT NULL)
    AND (%(events)s::text[] IS NULL OR event_id = ANY (%(events)s)) AND (%(invocations)s::bigint[] IS NULL OR invocations.id = ANY (%(invocations)s))
    AND (%(filter)s::text IS NULL OR runyard.filter_matches_v1(runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), %(filter)s::jsonpath))
ORDER BY invocations.id LIMIT %(limit)s

-- name: start_bulk
-- Note a bulk before it begins. (by bulks_pkey)
INSERT INTO runyard.bulks (id, action, selection, upto, total, finished_at)
VALUES (%(id)s, %(action)s, %(selection)s::jsonb, %(upto)s, %(total)s, CASE WHEN %(total)s = 0 THEN now() END)

-- name: bulk
-- A bulk, for the one who goes on with it. (by bulks_pkey)
SELECT * FROM runyard.bulks WHERE id = %(id)s FOR UPDATE

-- name: bulk_progress
-- Note how far a bulk has come. (by bulks_pkey)
UPDATE runyard.bulks SET reached = %(reached)s, done = done + %(done)s, finished_at = CASE WHEN %(finished)s THEN now() END WHERE id = %(id)s
RETURNING total, done, finished_at

-- name: bulks
-- The latest bulks. (a small table: scanned)
SELECT id, action, selection, total, done, started_at, finished_at FROM runyard.bulks ORDER BY id DESC LIMIT 50

-- name: replay_invocations
-- Replay invocations; gives the new ones. (by invocations_pkey)
SELECT id FROM runyard.replay_v1(%(invocations)s::bigint[], %(keep)s) AS id

-- name: cancel_invocations
-- Cancel invocations; gives how many were not final. (by invocations_pkey)
SELECT runyard.cancel_v1(%(invocations)s::bigint[], %(reason)s) AS count

-- name: run_invocations_now
-- Run invocations before their time; gives those that had time left to wait. (by invocations_pkey, waits_invocation_id_step_key)
SELECT id FROM runyard.run_now_v1(%(invocations)s::bigint[]) AS id

-- name: dismiss_invocations
-- Take failures off the list of dead letters; gives how many. (by invocations_pkey)
WITH dismissed AS (
    UPDATE runyard.invocations SET dismissed_at = runyard.now_v1()
    WHERE id = ANY (%(invocations)s::bigint[]) AND status = 'failed' AND dismissed_at IS NULL RETURNING id
)
SELECT count(*) AS count FROM dismissed

-- name: dead_letters
-- Final failures that were neither replayed nor dismissed, newest first. (by invocations_failed, events_pkey)
SELECT * FROM runyard.dead_letters
WHERE (%(function)s::text IS NULL OR function = %(function)s) AND (%(invocation)s::bigint IS NULL OR id = %(invocation)s) ORDER BY id DESC LIMIT %(limit)s

-- name: invocations_of_function
-- All invocations of a function, oldest first; for tests. (by invocations_function)
SELECT id FROM runyard.invocations WHERE function = %(function)s ORDER BY created_at, id
