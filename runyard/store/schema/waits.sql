-- Waits: registering them, and matching them with events.

-- Held by whoever registers waits, suspends invocations or matches events, so that none of them
-- misses what another does.
CREATE FUNCTION runyard.lock_waits_v1() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(8290, 1)
$$;

-- The events that came before waits were registered: for each wait of these invocations at these
-- steps, the first event that resolves it, in the order of commits. The value of an event is
-- computed once for each set of paths and looked up by equality; waits that look for the same thing
-- are treated as one. The join uses a hash: PostgreSQL cannot know how many events there are, and
-- would go through all of them for each wait.
-- (by waits_invocation_id_step_key, events_name, events_pkey)
CREATE FUNCTION runyard.match_past_events_v1(of bigint[], at_steps text[])
RETURNS TABLE (wait bigint, event text) LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_nestloop = off
SET jit = off AS $$
DECLARE
    span record;
BEGIN
    FOR span IN
        SELECT waits.event, waits.match_paths,
            min(pg_snapshot_xmin(waits.since)::text::bigint)::text::xid8 AS first
        FROM runyard.waits
        WHERE waits.invocation_id = ANY (of) AND waits.step = ANY (at_steps)
            AND waits.event IS NOT NULL
            AND waits.resolved_at IS NULL
        GROUP BY 1, 2
    LOOP
        RETURN QUERY
        WITH sought AS MATERIALIZED (  -- waits that look for the same thing, as one
            SELECT waits.match_value, waits.filter::text::jsonpath AS filter, waits.condition,
                waits.since::text::pg_snapshot AS since, waits.xid, waits.own_event,
                waits.own_event_xid, waits.expires_at, array_agg(waits.id) AS ids
            FROM runyard.waits
            WHERE waits.invocation_id = ANY (of) AND waits.step = ANY (at_steps)
                AND waits.event = span.event AND waits.match_paths = span.match_paths
                AND waits.resolved_at IS NULL
            GROUP BY waits.match_value, waits.filter::text, waits.condition, waits.since::text,
                waits.xid, waits.own_event, waits.own_event_xid, waits.expires_at
        ),
        documents AS MATERIALIZED (  -- the events since the first of them may count
            SELECT events.id, events.xid, events.received_at,
                runyard.document_v1(
                    events.id, events.name, events.data, events."user", events.v, events.ts
                ) AS document
            FROM runyard.events WHERE events.name = span.event AND events.xid >= span.first
        ),
        arrived AS MATERIALIZED (  -- the same with the value that is compared
            SELECT documents.*, runyard.match_value_v1(document, span.match_paths) AS value
            FROM documents
        ),
        first AS (  -- the first event that fits
            SELECT DISTINCT ON (sought.ids) sought.ids, arrived.id
            FROM sought JOIN arrived ON arrived.value = sought.match_value
            WHERE NOT pg_visible_in_snapshot(arrived.xid, sought.since)
                AND arrived.xid <> sought.xid AND arrived.received_at <= sought.expires_at
                AND NOT coalesce(
                    arrived.xid = sought.own_event_xid AND arrived.id <= sought.own_event, false)
                AND runyard.filter_matches_v1(arrived.document, sought.filter)
                AND (sought.condition IS NULL OR runyard.cel_met_v1(
                    sought.condition, jsonb_build_object('async', arrived.document)))
            ORDER BY sought.ids, arrived.xid, arrived.id
        )
        SELECT unnest(first.ids), first.id FROM first;
    END LOOP;
END $$;

-- Makes suspended invocations due at once, for a wait of each is over. (by invocations_pkey)
CREATE FUNCTION runyard.resume_v1(resumed bigint[]) RETURNS void LANGUAGE plpgsql
SET jit = off AS $$
DECLARE
    woken text;
BEGIN
    IF resumed IS NULL THEN
        RETURN;
    END IF;
    WITH suspended AS (  -- locked by id, as everywhere
        SELECT id FROM runyard.invocations
        WHERE id = ANY (resumed) AND status IN ('sleeping', 'waiting') AND lane IS NULL
        ORDER BY id FOR UPDATE
    ),
    due AS (  -- they are due at once
        UPDATE runyard.invocations SET due_at = least(due_at, runyard.now_v1())
        FROM suspended WHERE invocations.id = suspended.id RETURNING function
    )
    SELECT string_agg(DISTINCT function, ',') INTO woken FROM due;
    IF woken IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
END $$;

-- Matches events with waits, under the lock: for given invocations all events since each wait began
-- to count, otherwise (NULL) the events committed since the last call. The first event that fits
-- resolves a wait. Returns how many were resolved. The value that events and waits are compared by
-- is computed once for each event. PostgreSQL cannot guess how few events a snapshot leaves, and
-- would rather read them all: hence no sequential scans.
-- (by waits_event, events_name, waits_pkey, events_pkey, invocations_pkey)
CREATE FUNCTION runyard.match_v1(of bigint[] DEFAULT NULL, at_steps text[] DEFAULT NULL)
RETURNS integer LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    before pg_snapshot;
    cancels bigint[];
    resumed bigint[];
BEGIN
    SELECT snapshot INTO before FROM runyard.watermark;
    WITH RECURSIVE names AS (  -- the event names that open waits are for
        (SELECT event FROM runyard.waits
         WHERE event IS NOT NULL AND resolved_at IS NULL AND of IS NULL ORDER BY event LIMIT 1)
        UNION ALL
        SELECT (
            SELECT waits.event FROM runyard.waits
            WHERE waits.event > names.event AND resolved_at IS NULL ORDER BY waits.event LIMIT 1)
        FROM names WHERE event IS NOT NULL
    ),
    shapes AS (  -- the sets of paths that they compare in events of each name
        SELECT DISTINCT names.event, distinct_paths.match_paths
        FROM names CROSS JOIN LATERAL (
            WITH RECURSIVE each AS (  -- one index look-up for each set of paths
                (SELECT match_paths FROM runyard.waits
                 WHERE waits.event = names.event AND resolved_at IS NULL
                 ORDER BY match_paths LIMIT 1)
                UNION ALL
                SELECT (
                    SELECT waits.match_paths FROM runyard.waits
                    WHERE waits.event = names.event AND resolved_at IS NULL
                        AND waits.match_paths > each.match_paths
                    ORDER BY waits.match_paths LIMIT 1)
                FROM each WHERE match_paths IS NOT NULL
            )
            SELECT match_paths FROM each WHERE match_paths IS NOT NULL
        ) AS distinct_paths
        WHERE names.event IS NOT NULL
    ),
    documents AS MATERIALIZED (  -- the events of these names since the last call
        SELECT shapes.event, shapes.match_paths, events.id, events.xid, events.received_at,
            runyard.document_v1(
                events.id, events.name, events.data, events."user", events.v, events.ts
            ) AS document
        FROM shapes
        JOIN runyard.events ON events.name = shapes.event
            AND events.xid >= pg_snapshot_xmin(before)
            AND NOT pg_visible_in_snapshot(events.xid, before)
    ),
    valued AS MATERIALIZED (  -- the same with the value that is compared
        SELECT documents.*, runyard.match_value_v1(document, match_paths) AS value FROM documents
    ),
    arrived AS MATERIALIZED (  -- and with their place among the events with the same value
        SELECT valued.*,
            row_number() OVER (PARTITION BY event, match_paths, value ORDER BY xid, id) AS place
        FROM valued
    ),
    foremost AS (  -- waits that the first event with their value resolves, as is usual
        SELECT waits.id, arrived.id AS event_id FROM arrived
        JOIN runyard.waits ON waits.event = arrived.event
            AND waits.match_paths = arrived.match_paths AND waits.match_value = arrived.value
            AND waits.resolved_at IS NULL AND NOT pg_visible_in_snapshot(arrived.xid, waits.since)
            AND arrived.xid <> waits.xid AND arrived.received_at <= waits.expires_at
            AND NOT coalesce(
                arrived.xid = waits.own_event_xid AND arrived.id <= waits.own_event, false)
            AND runyard.filter_matches_v1(arrived.document, waits.filter)
            AND (waits.condition IS NULL OR runyard.cel_met_v1(
                waits.condition, jsonb_build_object('async', arrived.document)))
        WHERE arrived.place = 1
    ),
    fitting AS (  -- for the other waits, all later events that fit
        SELECT waits.id, arrived.xid, arrived.id AS event_id FROM arrived
        JOIN runyard.waits ON waits.event = arrived.event
            AND waits.match_paths = arrived.match_paths AND waits.match_value = arrived.value
            AND waits.resolved_at IS NULL AND NOT pg_visible_in_snapshot(arrived.xid, waits.since)
            AND arrived.xid <> waits.xid AND arrived.received_at <= waits.expires_at
            AND NOT coalesce(
                arrived.xid = waits.own_event_xid AND arrived.id <= waits.own_event, false)
            AND runyard.filter_matches_v1(arrived.document, waits.filter)
            AND (waits.condition IS NULL OR runyard.cel_met_v1(
                waits.condition, jsonb_build_object('async', arrived.document)))
        WHERE arrived.place > 1 AND waits.id NOT IN (SELECT foremost.id FROM foremost)
    ),
    first AS (  -- the event that resolves each wait
        (SELECT DISTINCT ON (id) id, event_id FROM fitting ORDER BY id, xid, event_id)
        UNION ALL SELECT id, event_id FROM foremost
        UNION ALL SELECT wait, event FROM runyard.match_past_events_v1(of, at_steps)
            WHERE of IS NOT NULL
    ),
    resolved AS (  -- the waits with their result
        UPDATE runyard.waits SET resolved_at = runyard.now_v1(),
            result = runyard.document_v1(
                events.id, events.name, events.data, events."user", events.v, events.ts)
        FROM first JOIN runyard.events ON events.id = first.event_id
        WHERE waits.id = first.id AND waits.resolved_at IS NULL
        RETURNING waits.invocation_id, waits.kind
    ),
    seen AS (  -- where the next call begins
        UPDATE runyard.watermark SET snapshot = pg_current_snapshot() WHERE of IS NULL
    )
    SELECT array_agg(invocation_id) FILTER (WHERE kind = 'cancel'),
        array_agg(invocation_id) FILTER (WHERE kind <> 'cancel')
    INTO cancels, resumed FROM resolved;
    PERFORM runyard.resume_v1(resumed);
    IF cancels IS NOT NULL THEN
        PERFORM runyard.cancel_v1(cancels, 'cancelled by an event');
    END IF;
    RETURN coalesce(cardinality(cancels), 0) + coalesce(cardinality(resumed), 0);
END $$;

-- Registers the waits for signals among what `wait_v1` takes, under the lock. An element of the
-- kind signal has: signal, replaces. If somebody waits for the signal already, the new wait takes
-- the place of the other, which then lasts until its timeout (replaces), or is over at once, with a
-- result that says so. (by waits_invocation_id_step_key, waits_signal, invocations_pkey)
CREATE FUNCTION runyard.wait_for_signals_v1(entries jsonb) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    entry record;
    is_taken boolean;
BEGIN
    FOR entry IN
        SELECT wanted.* FROM jsonb_to_recordset(entries) AS wanted (
            invocation bigint, step text, kind text, seconds float8, until float8, signal text,
            replaces boolean)
        JOIN runyard.invocations ON invocations.id = wanted.invocation
        WHERE wanted.kind = 'signal' AND NOT EXISTS (
            SELECT FROM runyard.waits
            WHERE waits.invocation_id = wanted.invocation AND waits.step = wanted.step)
    LOOP
        UPDATE runyard.waits SET signal = NULL
        WHERE waits.signal = entry.signal AND resolved_at IS NULL
            AND (entry.replaces OR expires_at <= runyard.now_v1() OR NOT EXISTS (
                SELECT FROM runyard.invocations
                WHERE invocations.id = waits.invocation_id
                    AND status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')));
        is_taken := EXISTS (
            SELECT FROM runyard.waits WHERE waits.signal = entry.signal AND resolved_at IS NULL);
        INSERT INTO runyard.waits (
            invocation_id, step, kind, signal, expires_at, resolved_at, result)
        VALUES (
            entry.invocation, entry.step, 'signal', entry.signal,
            coalesce(
                to_timestamp(entry.until),
                runyard.now_v1() + make_interval(secs => entry.seconds)),
            CASE WHEN is_taken THEN runyard.now_v1() END,
            CASE WHEN is_taken THEN '{"is_taken": true}'::jsonb END);
    END LOOP;
END $$;

-- Resolves the wait for a signal, and returns its invocation; NULL if nobody waits for it.
-- (by waits_signal, invocations_pkey)
CREATE FUNCTION runyard.send_signal_v1(sent text, data jsonb) RETURNS bigint LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    waiting bigint;
BEGIN
    PERFORM runyard.lock_waits_v1();
    UPDATE runyard.waits SET resolved_at = runyard.now_v1(),
        result = jsonb_build_object('signal', sent, 'data', data)
    FROM runyard.invocations
    WHERE waits.signal = sent AND waits.resolved_at IS NULL
        AND waits.expires_at > runyard.now_v1()
        AND invocations.id = waits.invocation_id
        AND invocations.status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')
    RETURNING waits.invocation_id INTO waiting;
    IF waiting IS NOT NULL THEN
        PERFORM runyard.resume_v1(ARRAY[waiting]);
    END IF;
    RETURN waiting;
END $$;

-- Registers what invocations of a running batch wait for, each once, and returns how each wait
-- stands. An element has: invocation, step, kind, seconds or until (epoch seconds), event,
-- match_paths, match_values (the values at these paths), unmatchable (true if one of the values is
-- missing, so that nothing can match), filter, condition; for signals see wait_for_signals_v1. An
-- event that came after the invocation's own event, or (if it has waited before) after the start of
-- the current run, resolves the wait at once.
-- (by waits_invocation_id_step_key, events_name, events_pkey, invocations_pkey)
CREATE FUNCTION runyard.wait_v1(entries jsonb)
RETURNS TABLE (
    invocation_id bigint, step text, done boolean, expired boolean, result jsonb,
    due_at timestamptz)
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    invocations CONSTANT bigint[] := ARRAY(
        SELECT (element->>'invocation')::bigint FROM jsonb_array_elements(entries) AS element);
    steps CONSTANT text[] := ARRAY(
        SELECT DISTINCT element->>'step' FROM jsonb_array_elements(entries) AS element);
BEGIN
    PERFORM runyard.lock_waits_v1();
    PERFORM runyard.wait_for_signals_v1(entries);
    UPDATE runyard.watermark SET snapshot = pg_current_snapshot()
    WHERE NOT EXISTS (SELECT FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL);
    INSERT INTO runyard.waits (
        invocation_id, step, kind, event, match_paths, match_value, filter, condition, since,
        own_event, own_event_xid, expires_at)
    SELECT entry.invocation, entry.step, entry.kind, entry.event,
        coalesce(entry.match_paths, '[]'),
        CASE WHEN entry.unmatchable THEN runyard.no_value_v1()
            ELSE coalesce(runyard.match_values_v1(entry.match_values), '') END,
        entry.filter::jsonpath, nullif(entry.condition, 'null'), invocations.since, own.id, own.xid,
        coalesce(
            to_timestamp(entry.until),
            runyard.now_v1() + make_interval(secs => entry.seconds))
    FROM jsonb_to_recordset(entries) AS entry (
        invocation bigint, step text, kind text, seconds float8, until float8, event text,
        match_paths jsonb, match_values jsonb, unmatchable boolean, filter text,
        condition jsonb)
    JOIN runyard.invocations ON invocations.id = entry.invocation
    LEFT JOIN runyard.events AS own
        ON own.id = invocations.event_id AND own.name = entry.event
    WHERE entry.kind <> 'signal'
    ON CONFLICT ON CONSTRAINT waits_invocation_id_step_key DO NOTHING;
    PERFORM runyard.match_v1(invocations, steps);
    RETURN QUERY
        SELECT waits.invocation_id, waits.step,
            waits.resolved_at IS NOT NULL OR waits.expires_at <= runyard.now_v1(),
            waits.resolved_at IS NULL AND waits.expires_at <= runyard.now_v1(),
            waits.result, waits.expires_at
        FROM runyard.waits
        WHERE waits.invocation_id = ANY (invocations) AND waits.step = ANY (steps);
END $$;

-- Whether the tables were restored from another cluster, whose transactions have higher numbers: to
-- what waits here, no new event would ever look new. (by events_received_at)
CREATE FUNCTION runyard.from_another_cluster_v1() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.watermark
        WHERE pg_snapshot_xmax(snapshot) > pg_snapshot_xmax(pg_current_snapshot())
    ) OR coalesce((
        SELECT xid > pg_snapshot_xmax(pg_current_snapshot())
            AND xid <> pg_current_xact_id_if_assigned()
        FROM runyard.events ORDER BY received_at DESC, id DESC LIMIT 1), false)
$$;

-- Matches what came before such a move by the old numbers, then starts afresh with those of this
-- cluster. Returns whether that was necessary. (each table is scanned, once)
CREATE FUNCTION runyard.adopt_cluster_v1() RETURNS boolean LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    present pg_snapshot;
BEGIN
    PERFORM runyard.lock_waits_v1();
    IF NOT runyard.from_another_cluster_v1() THEN
        RETURN false;
    END IF;
    PERFORM runyard.match_v1();
    present := pg_current_snapshot();
    UPDATE runyard.events SET xid = '3'
    WHERE xid >= pg_snapshot_xmax(present) AND xid <> pg_current_xact_id();
    UPDATE runyard.progress SET xid = '3' WHERE xid >= pg_snapshot_xmax(present);
    DELETE FROM runyard.messages WHERE xid >= pg_snapshot_xmax(present);
    UPDATE runyard.waits SET since = present, xid = '3'
    WHERE resolved_at IS NULL AND (
        pg_snapshot_xmax(since) > pg_snapshot_xmax(present) OR xid >= pg_snapshot_xmax(present));
    UPDATE runyard.invocations SET since = present
    WHERE pg_snapshot_xmax(since) > pg_snapshot_xmax(present);
    UPDATE runyard.functions SET removed_at = NULL, removed_snapshot = NULL, restored_at = NULL,
        restored_snapshot = NULL
    WHERE pg_snapshot_xmax(removed_snapshot) > pg_snapshot_xmax(present);
    UPDATE runyard.watermark SET snapshot = present;
    RETURN true;
END $$;
