-- How invocations wait, are woken, are cancelled, end, and are done again.

-- Whoever registers waits, parks invocations or matches events holds this lock: then none of them misses the other.
CREATE FUNCTION runyard.lock_waits_v1() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(8290, 1)
$$;

-- Register what invocations of a running batch wait for, each once; gives how each stands.
-- An element: invocation, kind, seconds or until (epoch seconds), event, shape, wanted (the values by which `shape` is compared), filter.
-- An event that came since the run began (and, after a retry, since the first run that was to come to this wait) is found at once.
-- (by waits_invocation_id_step_key, events_name, invocations_pkey)
CREATE FUNCTION runyard.wait_v1(step text, wanted jsonb) RETURNS TABLE (invocation_id bigint, done boolean, expired boolean, result jsonb, due_at timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM runyard.lock_waits_v1();
    UPDATE runyard.watermark SET snapshot = pg_current_snapshot()
    WHERE NOT EXISTS (SELECT FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL);
    INSERT INTO runyard.waits (invocation_id, step, kind, event, shape, value, filter, since, expires_at)
    SELECT asked.invocation, wait_v1.step, asked.kind, asked.event, coalesce(asked.shape, '[]'),
        coalesce(runyard.short_v1((SELECT string_agg(value::text, ' ' ORDER BY position) FROM jsonb_array_elements(asked.wanted) WITH ORDINALITY AS w (value, position))), ''),
        asked.filter::jsonpath, invocations.since,
        coalesce(to_timestamp(asked.until), runyard.now() + make_interval(secs => asked.seconds))
    FROM jsonb_to_recordset(wanted)
        AS asked (invocation bigint, kind text, seconds float8, until float8, event text, shape jsonb, wanted jsonb, filter text)
    JOIN runyard.invocations ON invocations.id = asked.invocation
    ON CONFLICT ON CONSTRAINT waits_invocation_id_step_key DO NOTHING;
    PERFORM runyard.match_v1(ARRAY(SELECT (element->>'invocation')::bigint FROM jsonb_array_elements(wanted) AS element), wait_v1.step);
    RETURN QUERY
        SELECT waits.invocation_id, waits.resolved_at IS NOT NULL OR waits.expires_at <= runyard.now(),
            waits.resolved_at IS NULL AND waits.expires_at <= runyard.now(), waits.result, waits.expires_at
        FROM runyard.waits
        WHERE waits.step = wait_v1.step AND waits.invocation_id = ANY (SELECT (element->>'invocation')::bigint FROM jsonb_array_elements(wanted) AS element);
END $$;

-- Match events with waits, under the lock: of given invocations all events since each wait's own moment,
-- else (NULL) those that were committed since the last call. The first event that fits resolves a wait. Gives how many were resolved.
-- PostgreSQL cannot guess how few events a snapshot leaves, and would rather read them all: hence no sequential scans.
-- (by waits_event, events_name, waits_pkey, invocations_pkey)
CREATE FUNCTION runyard.match_v1(of bigint[] DEFAULT NULL, at_step text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET enable_seqscan = off AS $$
DECLARE
    before pg_snapshot;
    cancels bigint[];
    resumed bigint[];
    woken text;
BEGIN
    SELECT snapshot INTO before FROM runyard.watermark;
    WITH RECURSIVE names AS (
        (SELECT event FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL AND of IS NULL ORDER BY event LIMIT 1)
        UNION ALL
        SELECT (SELECT waits.event FROM runyard.waits WHERE waits.event > names.event AND resolved_at IS NULL ORDER BY waits.event LIMIT 1)
        FROM names WHERE event IS NOT NULL
    ),
    shapes AS (
        SELECT DISTINCT names.event, found.shape FROM names CROSS JOIN LATERAL (
            WITH RECURSIVE each AS (
                (SELECT shape FROM runyard.waits WHERE waits.event = names.event AND resolved_at IS NULL ORDER BY shape LIMIT 1)
                UNION ALL
                SELECT (SELECT waits.shape FROM runyard.waits WHERE waits.event = names.event AND resolved_at IS NULL AND waits.shape > each.shape ORDER BY waits.shape LIMIT 1)
                FROM each WHERE shape IS NOT NULL
            ) SELECT shape FROM each WHERE shape IS NOT NULL
        ) AS found WHERE names.event IS NOT NULL
    ),
    arrived AS (
        SELECT shapes.event, shapes.shape, events.id, events.xid, events.received_at,
            runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts) AS document
        FROM shapes JOIN runyard.events ON events.name = shapes.event
            AND events.xid >= pg_snapshot_xmin(before) AND NOT pg_visible_in_snapshot(events.xid, before)
    ),
    fitting AS (
        SELECT waits.id, arrived.xid, arrived.id AS event_id, arrived.document FROM arrived
        JOIN runyard.waits ON waits.event = arrived.event AND waits.shape = arrived.shape AND waits.value = runyard.value_v1(arrived.document, arrived.shape)
            AND waits.resolved_at IS NULL AND NOT pg_visible_in_snapshot(arrived.xid, waits.since) AND arrived.xid <> waits.xid
            AND arrived.received_at <= waits.expires_at AND runyard.passes_v1(arrived.document, waits.filter)
        UNION ALL
        SELECT waits.id, events.xid, events.id, runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts)
        FROM runyard.waits JOIN runyard.events ON events.name = waits.event
            AND events.xid >= pg_snapshot_xmin(waits.since) AND NOT pg_visible_in_snapshot(events.xid, waits.since) AND events.xid <> waits.xid
        WHERE waits.invocation_id = ANY (of) AND waits.step = at_step AND waits.event IS NOT NULL AND waits.resolved_at IS NULL
            AND events.received_at <= waits.expires_at
            AND waits.value = runyard.value_v1(runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), waits.shape)
            AND runyard.passes_v1(runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), waits.filter)
    ),
    first AS (
        SELECT DISTINCT ON (id) id, document FROM fitting ORDER BY id, xid, event_id
    ),
    resolved AS (
        UPDATE runyard.waits SET resolved_at = runyard.now(), result = first.document FROM first WHERE waits.id = first.id
        RETURNING waits.invocation_id, waits.kind
    ),
    seen AS (
        UPDATE runyard.watermark SET snapshot = pg_current_snapshot() WHERE of IS NULL
    )
    SELECT array_agg(invocation_id) FILTER (WHERE kind = 'cancel'), array_agg(invocation_id) FILTER (WHERE kind <> 'cancel') INTO cancels, resumed FROM resolved;
    IF resumed IS NOT NULL THEN
        WITH parked AS (
            SELECT id FROM runyard.invocations WHERE id = ANY (resumed) AND status IN ('sleeping', 'waiting') AND lane IS NULL ORDER BY id FOR UPDATE
        ),
        due AS (
            UPDATE runyard.invocations SET due_at = least(due_at, runyard.now()) FROM parked WHERE invocations.id = parked.id RETURNING function
        )
        SELECT string_agg(DISTINCT function, ',') INTO woken FROM due;
        IF woken IS NOT NULL THEN
            PERFORM runyard.wake_v1(woken);
        END IF;
    END IF;
    IF cancels IS NOT NULL THEN
        PERFORM runyard.cancel_v1(cancels, 'cancelled by an event');
    END IF;
    RETURN coalesce(cardinality(cancels), 0) + coalesce(cardinality(resumed), 0);
END $$;

-- Cancel invocations: those that wait end at once, those that run leave their batch at the next step. Gives how many were not final.
-- Batches are locked first, as by everything else that locks both. (by invocations_pkey, batches_pkey)
CREATE FUNCTION runyard.cancel_v1(ids bigint[], reason text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    why CONSTANT jsonb := jsonb_build_object('step', NULL, 'type', 'Cancelled', 'message', reason, 'traceback', '');
    ended integer;
    told integer;
BEGIN
    PERFORM FROM runyard.batches
    WHERE id IN (SELECT batch_id FROM runyard.invocations WHERE invocations.id = ANY (ids) AND status IN ('claimed', 'running'))
    ORDER BY id FOR UPDATE;
    PERFORM FROM runyard.invocations
    WHERE id = ANY (ids) AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') ORDER BY id FOR UPDATE;
    UPDATE runyard.invocations SET status = 'cancelled', lane = NULL, error = why, finished_at = runyard.now()
    WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting');
    GET DIAGNOSTICS ended = ROW_COUNT;
    WITH asked AS (
        UPDATE runyard.invocations SET cancel_requested_at = runyard.now(), error = why
        WHERE id = ANY (ids) AND status IN ('claimed', 'running') AND cancel_requested_at IS NULL RETURNING id, batch_id
    ),
    grouped AS (
        SELECT batch_id, array_agg(id) AS ids FROM asked GROUP BY batch_id
    ),
    noted AS (
        UPDATE runyard.batches SET cancelled = batches.cancelled || grouped.ids FROM grouped WHERE batches.id = grouped.batch_id
    )
    SELECT count(*) INTO told FROM asked;
    RETURN ended + told;
END $$;

-- The events of these invocations again, as new invocations that pass no gate a second time; with `keep` the steps that are done stay done.
-- A failure that is replayed is no dead letter any more. Gives the ids of the new ones. (by invocations_pkey, steps_pkey, functions_pkey)
CREATE FUNCTION runyard.replay_v1(ids bigint[], keep boolean DEFAULT false) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    made bigint[];
    woken text;
BEGIN
    WITH copies AS (
        INSERT INTO runyard.invocations (event_id, function, priority, keys, lane, replay_of)
        SELECT event_id, function, invocations.priority, keys,
            CASE WHEN keys IS NOT NULL THEN array_to_string(keys[1:(functions.flow->>'lanes')::integer], chr(31)) END, id
        FROM runyard.invocations JOIN runyard.functions ON functions.name = invocations.function
        WHERE id = ANY (ids) AND status IN ('succeeded', 'failed', 'cancelled', 'skipped') ORDER BY id
        RETURNING id, function, replay_of
    ),
    dismissed AS (
        UPDATE runyard.invocations SET dismissed_at = runyard.now()
        WHERE id = ANY (ids) AND status = 'failed' AND dismissed_at IS NULL AND id IN (SELECT replay_of FROM copies)
    ),
    kept AS (
        INSERT INTO runyard.steps (invocation_id, step, attempt, run_id, output, started_at, finished_at)
        SELECT copies.id, steps.step, steps.attempt, steps.run_id, steps.output, steps.started_at, steps.finished_at
        FROM copies JOIN runyard.steps ON steps.invocation_id = copies.replay_of AND steps.error IS NULL WHERE keep
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ',') INTO made, woken FROM copies;
    IF made IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT unnest(made);
END $$;

-- Take up again what failed, was cancelled, or waits for another attempt. Gives the ids that are due now. (by invocations_pkey)
CREATE FUNCTION runyard.requeue_v1(ids bigint[]) RETURNS SETOF bigint LANGUAGE sql AS $$
    UPDATE runyard.invocations SET status = 'queued', due_at = runyard.now(), finished_at = NULL, output = NULL, error = NULL,
        cancel_requested_at = NULL, expires_at = NULL, dismissed_at = NULL, admitted = true,
        lane = CASE WHEN keys IS NOT NULL THEN array_to_string(keys[1:(functions.flow->>'lanes')::integer], chr(31)) || chr(30) END
    FROM runyard.functions
    WHERE id = ANY (ids) AND functions.name = invocations.function AND status IN ('queued', 'failed', 'cancelled')
    RETURNING id
$$;

-- The doors for plain SQL: SELECT runyard.replay(id) FROM runyard.invocations WHERE ...
CREATE FUNCTION runyard.replay(invocation bigint, keep boolean DEFAULT false) RETURNS bigint LANGUAGE sql AS $$
    SELECT * FROM runyard.replay_v1(ARRAY[invocation], keep)
$$;
CREATE FUNCTION runyard.cancel(invocation bigint, reason text DEFAULT 'cancelled by SQL') RETURNS boolean LANGUAGE sql AS $$
    SELECT runyard.cancel_v1(ARRAY[invocation], reason) > 0
$$;
CREATE FUNCTION runyard.dismiss(invocation bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE runyard.invocations SET dismissed_at = runyard.now() WHERE id = invocation AND status = 'failed' AND dismissed_at IS NULL;
    RETURN FOUND;
END $$;

CREATE VIEW runyard.dead_letters AS
    SELECT invocations.id, invocations.function, invocations.event_id, events.name AS event, events.data, invocations.attempt,
        invocations.error->>'step' AS step, invocations.error->>'type' AS type, invocations.error->>'message' AS message,
        invocations.error->>'traceback' AS traceback, invocations.run_id, invocations.created_at, invocations.finished_at
    FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
    WHERE invocations.status = 'failed' AND invocations.dismissed_at IS NULL;
COMMENT ON VIEW runyard.dead_letters IS 'Final failures that were neither replayed nor dismissed.';

-- Every end of an invocation, whoever writes it: its waits go, and internal events tell of it where somebody listens.
-- What internal events set off tells of nothing in turn, so that no function can run in a loop on ends. (by waits_event, waits_invocation_id_step_key, events_pkey)
CREATE FUNCTION runyard.ended_v1() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    heard boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM changed WHERE status IN ('succeeded', 'failed', 'cancelled', 'skipped')) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM runyard.waits) THEN
        -- What is locked is being resolved at this moment: it means nothing any more, and is swept away later.
        DELETE FROM runyard.waits WHERE id IN (
            SELECT waits.id FROM changed JOIN runyard.waits ON waits.invocation_id = changed.id
            WHERE changed.status IN ('succeeded', 'failed', 'cancelled', 'skipped') FOR UPDATE OF waits SKIP LOCKED
        );
    END IF;
    heard := EXISTS (SELECT FROM runyard.triggers JOIN runyard.functions ON functions.name = triggers.function AND functions.active WHERE triggers.event LIKE 'runyard/%');
    IF NOT heard AND NOT EXISTS (SELECT FROM runyard.waits WHERE event = 'runyard/function.finished') THEN
        RETURN NULL;
    END IF;
    INSERT INTO runyard.events (name, data, source)
    SELECT told.name, jsonb_build_object('function', ended.function, 'invocation', ended.id, 'event_id', ended.event_id, 'status', ended.status,
        'attempts', ended.attempt, 'run_id', ended.run_id, 'output', ended.output, 'error', ended.error,
        'event', jsonb_build_object('id', events.id, 'name', events.name, 'data', events.data, 'user', events."user", 'v', events.v,
            'ts', floor(extract(epoch FROM events.ts) * 1000)::bigint)), 'engine'
    FROM changed AS ended
    JOIN former ON former.id = ended.id AND former.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')
    JOIN runyard.events ON events.id = ended.event_id
    CROSS JOIN LATERAL (VALUES
        ('runyard/function.finished', true), ('runyard/function.failed', ended.status = 'failed'), ('runyard/function.cancelled', ended.status = 'cancelled')
    ) AS told (name, applies)
    WHERE ended.status IN ('succeeded', 'failed', 'cancelled', 'skipped') AND told.applies AND (
        (heard AND ended.status <> 'skipped' AND (events.name NOT LIKE 'runyard/function.%' OR events.name = 'runyard/function.invoked'))
        OR (told.name = 'runyard/function.finished' AND EXISTS (
            SELECT FROM runyard.waits WHERE waits.event = 'runyard/function.finished' AND resolved_at IS NULL
                AND shape = '[["data", "event_id"]]' AND value = runyard.short_v1(to_jsonb(ended.event_id)::text)))
    );
    RETURN NULL;
END $$;

CREATE TRIGGER ended AFTER UPDATE ON runyard.invocations
    REFERENCING OLD TABLE AS former NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION runyard.ended_v1();
