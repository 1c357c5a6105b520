-- How invocations end, and how they are cancelled, replayed, requeued and run before their time.

-- What to act on in place of these invocations: for each of a group its leader. The locks keep
-- claims from making groups of them meanwhile. Without groups it costs next to nothing.
-- (by invocations_pkey, invocations_leader; functions is a small table: scanned)
CREATE FUNCTION runyard.leaders_v1(ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(8290, hashtext('function ' || name)) FROM (
        SELECT name FROM runyard.functions
        WHERE flow->'batch' ? 'together' AND EXISTS (
            SELECT FROM runyard.invocations
            WHERE id = ANY (ids) AND function = name AND status = 'queued' AND leader_id IS NULL)
        ORDER BY name
    ) AS gathering;
    IF NOT EXISTS (SELECT FROM runyard.invocations WHERE leader_id IS NOT NULL) THEN
        RETURN ids;
    END IF;
    RETURN ARRAY(
        SELECT DISTINCT coalesce(leader_id, id) FROM runyard.invocations WHERE id = ANY (ids));
END $$;

-- These invocations with all others of their groups. (by invocations_leader, and as leaders_v1)
CREATE FUNCTION runyard.with_groups_v1(ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    leaders CONSTANT bigint[] := runyard.leaders_v1(ids);
BEGIN
    RETURN leaders || ARRAY(
        SELECT id FROM runyard.invocations WHERE leader_id = ANY (leaders) AND id <> leader_id);
END $$;

-- Cancels invocations: those that wait end at once, those that run leave their batch at the next
-- step. One of a group stands for all of it. Returns how many were not final. Batches are locked
-- first, as by everything else that locks both.
-- (by invocations_pkey, batches_pkey, and as leaders_v1)
CREATE FUNCTION runyard.cancel_v1(ids bigint[], reason text) RETURNS integer
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    why CONSTANT jsonb := jsonb_build_object(
        'step', NULL, 'type', 'Cancelled', 'message', reason, 'traceback', '');
    ended integer;
    told integer;
    led bigint[];
    told_led bigint[];
BEGIN
    ids := runyard.leaders_v1(ids);
    PERFORM FROM runyard.batches
    WHERE id IN (
        SELECT batch_id FROM runyard.invocations
        WHERE invocations.id = ANY (ids) AND status IN ('claimed', 'running'))
    ORDER BY id FOR UPDATE;
    PERFORM FROM runyard.invocations
    WHERE id = ANY (ids)
        AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
    ORDER BY id FOR UPDATE;
    WITH cancelled AS (
        UPDATE runyard.invocations
        SET status = 'cancelled', lane = NULL, error = why, finished_at = runyard.now_v1()
        WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting')
        RETURNING id, leader_id
    )
    SELECT count(*), array_agg(id) FILTER (WHERE leader_id IS NOT NULL) INTO ended, led
    FROM cancelled;
    WITH requested AS (  -- those that run are marked
        UPDATE runyard.invocations SET cancel_requested_at = runyard.now_v1(), error = why
        WHERE id = ANY (ids) AND status IN ('claimed', 'running')
            AND cancel_requested_at IS NULL
        RETURNING id, batch_id, leader_id
    ),
    grouped AS (  -- by batch
        SELECT batch_id, array_agg(id) AS ids FROM requested GROUP BY batch_id
    ),
    noted AS (  -- and noted in the batch, where its heartbeat sees them
        UPDATE runyard.batches SET cancelled = batches.cancelled || grouped.ids
        FROM grouped WHERE batches.id = grouped.batch_id
    )
    SELECT count(*), array_agg(id) FILTER (WHERE leader_id IS NOT NULL) INTO told, told_led
    FROM requested;
    RETURN ended + told + (
        SELECT count(*) FROM runyard.invocations
        WHERE leader_id = ANY (led || told_led) AND id <> leader_id);
END $$;

-- Runs the events of these invocations again, as new invocations that are not checked against the
-- admission rules a second time; with `keep`, completed steps stay completed. One of a group stands
-- for all of it, and the new ones are a group again. A failure that is replayed is no longer a dead
-- letter. Returns the ids of the new ones, those that lead a group first.
-- (by invocations_pkey, steps_pkey, functions_pkey, and as with_groups_v1)
CREATE FUNCTION runyard.replay_v1(ids bigint[], keep boolean DEFAULT false)
RETURNS SETOF bigint LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    created bigint[];
    members bigint[];
    led bigint[];
    woken text;
BEGIN
    ids := runyard.leaders_v1(ids);
    WITH copies AS (  -- the new invocations; what is run together has a lane of its own for each
        INSERT INTO runyard.invocations (
            event_id, function, priority, keys, lane, generation, replay_of)
        SELECT event_id, function, invocations.priority, keys,
            CASE WHEN keys IS NOT NULL
                THEN array_to_string(keys[1:(functions.flow->>'lane_keys')::integer], chr(31))
                    || CASE WHEN functions.flow->'batch' ? 'together' THEN chr(30) ELSE '' END END,
            invocations.generation, id
        FROM runyard.invocations JOIN runyard.functions ON functions.name = invocations.function
        WHERE id = ANY (ids) AND status IN ('succeeded', 'failed', 'cancelled', 'skipped')
        ORDER BY id
        RETURNING id, function, replay_of
    ),
    followers AS (  -- the others of their groups
        INSERT INTO runyard.invocations (
            event_id, function, status, priority, keys, generation, leader_id, replay_of)
        SELECT former.event_id, former.function, 'grouped', former.priority, former.keys,
            former.generation, copies.id, former.id
        FROM copies
        JOIN runyard.invocations AS former
            ON former.leader_id = copies.replay_of AND former.id <> former.leader_id
        ORDER BY copies.id, former.id
        RETURNING id, leader_id
    ),
    dismissed AS (  -- the failures that they replay
        UPDATE runyard.invocations SET dismissed_at = runyard.now_v1()
        WHERE id = ANY (ids) AND status = 'failed' AND dismissed_at IS NULL
            AND id IN (SELECT replay_of FROM copies)
    ),
    kept AS (  -- the completed steps, in their order
        INSERT INTO runyard.steps (
            invocation_id, step, attempt, run_id, output, started_at, finished_at)
        SELECT copies.id, steps.step, steps.attempt, steps.run_id, steps.output, steps.started_at,
            steps.finished_at
        FROM copies
        JOIN runyard.steps
            ON steps.invocation_id = copies.replay_of AND steps.error IS NULL
        WHERE keep
        ORDER BY steps.number
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ','),
        (SELECT array_agg(id ORDER BY id) FROM followers),
        array_agg(id) FILTER (WHERE id IN (SELECT leader_id FROM followers) OR function IN (
            SELECT name FROM runyard.functions WHERE flow->'batch' ? 'together'))
    INTO created, woken, members, led FROM copies;
    IF led IS NOT NULL THEN
        UPDATE runyard.invocations SET leader_id = id WHERE id = ANY (led);
        UPDATE runyard.invocations AS followers SET dismissed_at = leaders.dismissed_at
        FROM runyard.invocations AS leaders
        WHERE leaders.id = ANY (ids) AND followers.leader_id = leaders.id
            AND followers.status = 'failed' AND followers.dismissed_at IS NULL
            AND followers.id <> leaders.id;
    END IF;
    IF created IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT unnest(created || members);
END $$;

-- Requeues what failed, was cancelled, or waits for another attempt; the end that is taken back
-- becomes a run segment. One of a group stands for all of it. Returns the ids that are due now.
-- (by invocations_pkey, invocations_leader, and as leaders_v1)
CREATE FUNCTION runyard.requeue_v1(ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    ids := runyard.leaders_v1(ids);
    UPDATE runyard.invocations AS followers
    SET status = 'grouped', finished_at = NULL, error = NULL, dismissed_at = NULL
    FROM runyard.invocations AS leaders
    WHERE leaders.id = ANY (ids) AND leaders.status IN ('failed', 'cancelled')
        AND followers.leader_id = leaders.id AND followers.id <> leaders.id;
    RETURN QUERY
    WITH ended AS (  -- the run segments
        INSERT INTO runyard.run_segments (invocation_id, run_id, status, error, ended_at)
        SELECT id, run_id, status, error, finished_at FROM runyard.invocations
        WHERE id = ANY (ids) AND status IN ('failed', 'cancelled') AND run_id IS NOT NULL
    )
    UPDATE runyard.invocations
    SET status = 'queued', due_at = runyard.now_v1(), finished_at = NULL, output = NULL,
        error = NULL, cancel_requested_at = NULL, expires_at = NULL, dismissed_at = NULL,
        admitted = true,
        lane = CASE WHEN keys IS NOT NULL
            THEN array_to_string(keys[1:(functions.flow->>'lane_keys')::integer], chr(31))
                || chr(30) END
    FROM runyard.functions
    WHERE id = ANY (ids) AND functions.name = invocations.function
        AND status IN ('queued', 'failed', 'cancelled')
    RETURNING id;
END $$;

-- Makes what is queued for later due now, and wakes what sleeps; limits still apply. One of a group
-- stands for all of it. Returns the ids of those that had time left to wait.
-- (by invocations_pkey, waits_invocation_id_step_key, and as leaders_v1)
CREATE FUNCTION runyard.run_now_v1(ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    named CONSTANT bigint[] := ids;
    due_now bigint[];
    woken text;
BEGIN
    PERFORM runyard.lock_waits_v1();
    ids := runyard.leaders_v1(ids);
    PERFORM FROM runyard.invocations
    WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting')
    ORDER BY id FOR UPDATE;
    WITH awake AS (  -- those that sleep, their wait resolved
        UPDATE runyard.waits SET resolved_at = runyard.now_v1()
        FROM runyard.invocations
        WHERE invocations.id = ANY (ids) AND invocations.status IN ('sleeping', 'waiting')
            AND waits.invocation_id = invocations.id AND kind = 'sleep' AND resolved_at IS NULL
        RETURNING waits.invocation_id
    ),
    due AS (  -- all that were not due yet
        UPDATE runyard.invocations SET due_at = runyard.now_v1()
        WHERE id = ANY (ids) AND due_at > runyard.now_v1()
            AND (status = 'queued' OR id IN (SELECT invocation_id FROM awake))
        RETURNING id, function
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ',') INTO due_now, woken FROM due;
    IF due_now IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT id FROM runyard.invocations
    WHERE id = ANY (named) AND coalesce(leader_id, id) = ANY (due_now);
END $$;

-- Applies what this transaction has requested, at once (the requests of others are not visible to
-- it), or what was deferred. Locks are taken in the engine's order: that of the waits, then
-- batches, then invocations. (runyard.requests is almost always empty: scanned; as cancel_v1 and
-- run_now_v1)
CREATE FUNCTION runyard.apply_requests_v1(late boolean) RETURNS integer
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    taken bigint[];
    due_now bigint[];
    cancels record;
BEGIN
    SELECT array_agg(id) INTO taken FROM (
        SELECT id FROM runyard.requests WHERE deferred = late FOR UPDATE SKIP LOCKED) AS mine;
    SELECT array_agg(DISTINCT invocation) INTO due_now
    FROM runyard.requests WHERE id = ANY (taken) AND action = 'run now';
    IF due_now IS NOT NULL THEN
        PERFORM runyard.lock_waits_v1();
    END IF;
    FOR cancels IN
        SELECT reason, array_agg(DISTINCT invocation) AS ids FROM runyard.requests
        WHERE id = ANY (taken) AND action = 'cancel' GROUP BY reason ORDER BY min(id)
    LOOP
        PERFORM runyard.cancel_v1(cancels.ids, cancels.reason);
    END LOOP;
    IF due_now IS NOT NULL THEN
        PERFORM runyard.run_now_v1(due_now);
    END IF;
    DELETE FROM runyard.requests WHERE id = ANY (taken);
    RETURN coalesce(cardinality(taken), 0);
END $$;

-- Runs in the commit of whoever made the request, which must not fail because of the engine: what a
-- transaction with a snapshot of its own (REPEATABLE READ) may no longer change, or what others
-- keep locked for longer than it waits, is deferred.
CREATE FUNCTION runyard.apply_requests_at_commit_v1() RETURNS trigger
LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM runyard.requests WHERE id = NEW.id AND NOT deferred) THEN
        RETURN NULL;  -- applied with an earlier one
    END IF;
    BEGIN
        PERFORM runyard.apply_requests_v1(false);
    EXCEPTION WHEN serialization_failure OR deadlock_detected OR lock_not_available THEN
        UPDATE runyard.requests SET deferred = true WHERE NOT deferred;
    END;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER apply_requests
    AFTER INSERT ON runyard.requests DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION runyard.apply_requests_at_commit_v1();

-- For applications' SQL: SELECT runyard.replay(id) FROM runyard.invocations WHERE ...
CREATE FUNCTION runyard.replay(invocation bigint, keep boolean DEFAULT false) RETURNS bigint
LANGUAGE sql AS $$
    SELECT * FROM runyard.replay_v1(ARRAY[invocation], keep)
$$;

CREATE FUNCTION runyard.cancel(invocation bigint, reason text DEFAULT 'cancelled by SQL')
RETURNS boolean LANGUAGE sql AS $$
    WITH requested AS (  -- applied when the transaction commits
        INSERT INTO runyard.requests (invocation, action, reason)
        SELECT id, 'cancel', cancel.reason FROM runyard.invocations
        WHERE id = cancel.invocation
            AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting', 'grouped')
        RETURNING id
    )
    SELECT EXISTS (SELECT FROM requested)
$$;

CREATE FUNCTION runyard.run_now(invocation bigint) RETURNS boolean LANGUAGE sql AS $$
    WITH requested AS (  -- applied when the transaction commits
        INSERT INTO runyard.requests (invocation, action)
        SELECT id, 'run now' FROM runyard.invocations
        WHERE id = (
                SELECT coalesce(leader_id, id) FROM runyard.invocations
                WHERE id = run_now.invocation)
            AND due_at > runyard.now_v1()
            AND (status = 'queued' OR (status IN ('sleeping', 'waiting') AND EXISTS (
                SELECT FROM runyard.waits
                WHERE invocation_id = invocations.id AND kind = 'sleep' AND resolved_at IS NULL)))
        RETURNING id
    )
    SELECT EXISTS (SELECT FROM requested)
$$;

CREATE FUNCTION runyard.dismiss(invocation bigint) RETURNS boolean
LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    UPDATE runyard.invocations SET dismissed_at = runyard.now_v1()
    WHERE id = ANY (runyard.with_groups_v1(ARRAY[invocation]))
        AND status = 'failed' AND dismissed_at IS NULL;
    RETURN FOUND;
END $$;

-- Which of the events that tell of ends as Inngest has them somebody is waiting for, as a trigger
-- or in a wait. (triggers and functions are small tables: scanned; waits_event)
CREATE FUNCTION runyard.heard_ends_v1() RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT array_agg(name) FROM (VALUES
        ('inngest/function.finished'), ('inngest/function.failed'), ('inngest/function.cancelled')
    ) AS names (name)
    WHERE EXISTS (
        SELECT FROM runyard.triggers
        JOIN runyard.functions ON functions.name = triggers.function AND functions.active
        WHERE triggers.event LIKE 'inngest/%'
            AND CASE WHEN wildcard THEN names.name LIKE triggers.event
                ELSE names.name = triggers.event END
    ) OR EXISTS (
        SELECT FROM runyard.waits WHERE waits.event = names.name AND resolved_at IS NULL)
$$;

-- An event as Inngest shows it.
CREATE FUNCTION runyard.inngest_event_v1(event runyard.events) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('v', event.v)) || jsonb_build_object(
        'id', event.id, 'name', CASE
            WHEN event.name = 'runyard/function.invoked'
                THEN 'inngest/function.invoked' ELSE event.name END,
        'data', event.data, 'user', coalesce(event."user", '{}'),
        'ts', floor(extract(epoch FROM event.ts) * 1000)::bigint)
$$;

-- The events of a group, in the order in which they came. (by invocations_leader, events_pkey)
CREATE FUNCTION runyard.inngest_events_v1(leader bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(
        runyard.inngest_event_v1((
            SELECT events FROM runyard.events WHERE events.id = invocations.event_id))
        ORDER BY invocations.id)
    FROM runyard.invocations WHERE leader_id = leader
$$;

-- Tells of one end as Inngest does: `function_id` is the id of an application's function, and the
-- name of any other. (by app_functions_pkey, and as inngest_events_v1)
CREATE FUNCTION runyard.end_data_v1(ended runyard.invocations, event jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'function_id', coalesce(
            (SELECT slug FROM runyard.app_functions WHERE function = ended.function),
            ended.function),
        'run_id', runyard.run_id_v1(ended.id, ended.created_at),
        'event', event,
        'events', coalesce(
            runyard.inngest_events_v1(ended.leader_id), jsonb_build_array(event)),
        '_inngest', jsonb_build_object('status', CASE ended.status
            WHEN 'succeeded' THEN 'Completed' WHEN 'failed' THEN 'Failed' ELSE 'Cancelled' END))
        || CASE WHEN ended.status = 'succeeded'
            THEN jsonb_build_object('result', ended.output)
            ELSE jsonb_build_object('error', jsonb_build_object(
                '__serialized', true,
                'name', coalesce(ended.error->>'type', 'Error'),
                'message', coalesce(ended.error->>'message', ''),
                'stack', coalesce(ended.error->>'traceback', ''))) END
        || CASE WHEN event->'data'->'_inngest' ? 'correlation_id'
            THEN jsonb_build_object(
                'correlation_id', event->'data'->'_inngest'->'correlation_id')
            ELSE '{}' END
$$;

-- Runs at every end of an invocation, whoever writes it: it is counted, its waits are deleted, its
-- group ends with it, and internal events announce it if anybody listens: once for a group. What
-- internal events start announces nothing in turn, so that no function can run in a loop on ends.
-- (by waits_event, waits_invocation_id_step_key, events_pkey, invocations_leader, and as
-- heard_ends_v1 and end_data_v1)
CREATE FUNCTION runyard.ended_v1() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    heard boolean;
    inngest text[];
BEGIN
    IF NOT EXISTS (
        SELECT FROM changed WHERE status IN ('succeeded', 'failed', 'cancelled', 'skipped')
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO runyard.tallies (metric, name, label, bucket, count, seconds)
    SELECT 'ended', ended.function, ended.status, coalesce(runyard.bucket_v1(took), 0), count(*),
        coalesce(sum(took), 0)
    FROM (
        SELECT changed.function, changed.status, CASE WHEN changed.started_at IS NOT NULL
            THEN greatest(0, extract(epoch FROM changed.finished_at - changed.started_at))::float8
            END AS took
        FROM changed
        JOIN former ON former.id = changed.id
            AND former.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')
        WHERE changed.status IN ('succeeded', 'failed', 'cancelled', 'skipped')
    ) AS ended
    GROUP BY 1, 2, 3, 4;
    IF EXISTS (SELECT FROM runyard.waits) THEN
        -- A locked wait is being resolved at this moment: that no longer means anything, and it is
        -- purged later.
        DELETE FROM runyard.waits WHERE id IN (
            SELECT waits.id FROM changed JOIN runyard.waits ON waits.invocation_id = changed.id
            WHERE changed.status IN ('succeeded', 'failed', 'cancelled', 'skipped')
            FOR UPDATE OF waits SKIP LOCKED
        );
    END IF;
    -- The end of a leader is that of its group.
    IF EXISTS (
        SELECT FROM changed
        WHERE leader_id = id AND status IN ('succeeded', 'failed', 'cancelled', 'skipped')
    ) THEN
        UPDATE runyard.invocations AS followers
        SET status = leaders.status, error = leaders.error, attempt = leaders.attempt,
            run_id = leaders.run_id, started_at = leaders.started_at,
            finished_at = leaders.finished_at
        FROM changed AS leaders
        WHERE leaders.leader_id = leaders.id
            AND leaders.status IN ('succeeded', 'failed', 'cancelled', 'skipped')
            AND followers.leader_id = leaders.id AND followers.status = 'grouped';
    END IF;
    inngest := runyard.heard_ends_v1();
    IF inngest IS NOT NULL THEN
        INSERT INTO runyard.events (id, name, data, source)
        SELECT
            -- Once for each run that fails.
            CASE WHEN told.name = 'inngest/function.failed' AND subject.is_first
                THEN runyard.run_id_v1(ended.id, ended.created_at) ELSE runyard.ulid_v1() END,
            told.name,
            runyard.end_data_v1(ended.row, runyard.inngest_event_v1(events)),
            'engine'
        FROM (SELECT changed.id, changed.created_at, changed.status, changed.event_id,
                changed.leader_id, changed::runyard.invocations AS row FROM changed) AS ended
        JOIN former ON former.id = ended.id
            AND former.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')
        -- of a group once, and for each other event that a function is called with
        CROSS JOIN LATERAL (
            SELECT ended.event_id AS id, true AS is_first
            UNION ALL
            SELECT followers.event_id, false FROM runyard.invocations AS followers
            WHERE followers.leader_id = ended.leader_id AND followers.id <> ended.id
        ) AS subject
        JOIN runyard.events ON events.id = subject.id
            AND (subject.is_first OR events.data->'_inngest' ? 'correlation_id')
        CROSS JOIN LATERAL (VALUES
            ('inngest/function.finished', true),
            ('inngest/function.failed', ended.status = 'failed'),
            ('inngest/function.cancelled', ended.status = 'cancelled')
        ) AS told (name, applies)
        WHERE ended.status IN ('succeeded', 'failed', 'cancelled') AND told.applies
            AND told.name = ANY (inngest)
            AND (ended.leader_id IS NULL OR ended.leader_id = ended.id)
            AND events.name NOT LIKE 'inngest/function.%'
            AND (events.name NOT LIKE 'runyard/function.%'
                OR events.name IN ('runyard/function.invoked', 'runyard/function.scheduled'))
        ON CONFLICT DO NOTHING;
    END IF;
    heard := EXISTS (
        SELECT FROM runyard.triggers
        JOIN runyard.functions ON functions.name = triggers.function AND functions.active
        WHERE triggers.event LIKE 'runyard/%');
    IF NOT heard AND NOT EXISTS (
        SELECT FROM runyard.waits WHERE event = 'runyard/function.finished'
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO runyard.events (name, data, source)
    SELECT told.name,
        jsonb_build_object(
            'function', ended.function, 'invocation', ended.id, 'event_id', ended.event_id,
            'status', ended.status, 'attempts', ended.attempt, 'run_id', ended.run_id,
            'output', CASE
                WHEN ended.leader_id <> ended.id THEN runyard.output_of_v1(ended.leader_id)
                ELSE ended.output END,
            'error', ended.error,
            'event', jsonb_build_object(
                'id', events.id, 'name', events.name, 'data', events.data, 'user', events."user",
                'v', events.v, 'ts', floor(extract(epoch FROM events.ts) * 1000)::bigint)),
        'engine'
    FROM changed AS ended
    JOIN former ON former.id = ended.id
        AND former.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')
    JOIN runyard.events ON events.id = ended.event_id
    CROSS JOIN LATERAL (VALUES
        ('runyard/function.finished', true),
        ('runyard/function.failed', ended.status = 'failed'),
        ('runyard/function.cancelled', ended.status = 'cancelled')
    ) AS told (name, applies)
    WHERE ended.status IN ('succeeded', 'failed', 'cancelled', 'skipped') AND told.applies AND (
        (heard AND ended.status <> 'skipped'
            AND (ended.leader_id IS NULL OR ended.leader_id = ended.id) AND (
            events.name NOT LIKE 'runyard/function.%'
            OR events.name = 'runyard/function.invoked'))
        OR (told.name = 'runyard/function.finished' AND EXISTS (
            SELECT FROM runyard.waits
            WHERE waits.event = 'runyard/function.finished' AND resolved_at IS NULL
                AND match_paths = '[["data", "event_id"]]'
                AND match_value = runyard.shorten_v1(to_jsonb(ended.event_id)::text)))
    );
    RETURN NULL;
END $$;

CREATE TRIGGER ended AFTER UPDATE ON runyard.invocations
    REFERENCING OLD TABLE AS former NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION runyard.ended_v1();
