-- Sending: events go in, one invocation for each function that they trigger comes out.

-- Wakes who listens for these functions (names separated by commas). A payload over the limit of
-- NOTIFY (8,000 bytes) is sent empty, which wakes all listeners. `runyard.notify = off` wakes
-- nobody: a transaction with a NOTIFY in it cannot be prepared, and such transactions commit one
-- after the other. What is due is then found when the daemon next looks by itself.
CREATE FUNCTION runyard.wake_v1(functions text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify(
        'runyard_due', CASE WHEN octet_length(functions) < 7900 THEN functions ELSE '' END)
    WHERE coalesce(current_setting('runyard.notify', true), '') <> 'off'
$$;

-- Every inserted event x every function it triggers = one invocation; one NOTIFY per statement. It
-- only reads and inserts, and takes no lock that another sender could wait for: an event may be
-- part of any transaction. Filters and conditions are evaluated only for functions with a trigger
-- of the event's name: every failure handler of every application has one on the same name.
-- (by triggers_event, triggers_wildcard, triggers_function; functions is a small table: scanned)
CREATE FUNCTION runyard.fan_out_v1() RETURNS trigger LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    woken text;
BEGIN
    WITH counted AS (  -- the events by name, for the metrics
        INSERT INTO runyard.tallies (metric, name, count)
        SELECT 'received', name, count(*) FROM arrived
        WHERE TG_TABLE_NAME = 'events' GROUP BY name
    ),
    matches AS (  -- each event with each function it is for
        SELECT arrived.*, functions.name AS function, functions.flow, functions.key_paths,
            functions.flow->'batch' AS batch, functions.uses_lanes, functions.needs_admission,
            functions.generation,
            functions.priority AS base, greatest(arrived.ts, runyard.now_v1()) AS due
        FROM arrived
        JOIN runyard.functions ON functions.active AND CASE
            WHEN arrived.target IS NOT NULL THEN arrived.target = functions.name
            ELSE arrived.name = ANY (functions.exact) OR (
                functions.has_patterns AND (arrived.name, functions.name) IN (
                    SELECT names.name, triggers.function
                    FROM (SELECT DISTINCT name FROM arrived) AS names
                    JOIN runyard.triggers ON NOT wildcard AND triggers.event = names.name
                    UNION ALL
                    SELECT names.name, triggers.function
                    FROM (SELECT DISTINCT name FROM arrived) AS names
                    JOIN runyard.triggers ON wildcard AND names.name LIKE triggers.event
                ) AND EXISTS (
                    SELECT FROM runyard.triggers
                    WHERE triggers.function = functions.name
                        AND runyard.trigger_met_v1(
                            triggers.event, wildcard, filter, condition, arrived.id, arrived.name,
                            arrived.data, arrived."user", arrived.v, arrived.ts))) END
    ),
    keyed AS (  -- the same with their keys, if the function has lanes
        SELECT matches.*, CASE WHEN uses_lanes
            THEN runyard.keys_v1(runyard.document_v1(id, name, data, "user", v, ts), key_paths)
            END AS keys
        FROM matches
    ),
    created AS (  -- their invocations; what is due and needs no admission goes to its lane at once
        INSERT INTO runyard.invocations (
            event_id, function, priority, due_at, keys, lane, admitted, generation, since,
            expires_at)
        SELECT id, function,
            CASE WHEN flow ? 'priority'
                THEN runyard.priority_v1(
                    runyard.document_v1(id, name, data, "user", v, ts), flow->'priority')
                ELSE base END,
            CASE WHEN needs_admission THEN due ELSE due + gathering END,
            keys,
            CASE WHEN uses_lanes AND NOT needs_admission AND NOT flow ? 'singleton'
                    AND due <= runyard.now_v1()
                THEN array_to_string(keys[1:(flow->>'lane_keys')::integer], chr(31)) END,
            NOT needs_admission, generation,
            CASE WHEN due <= runyard.now_v1() THEN pg_current_snapshot() END,
            CASE WHEN flow ? 'start_timeout'
                THEN due + make_interval(secs => (flow->>'start_timeout')::float8)
                    + CASE WHEN batch ? 'together' THEN gathering ELSE interval '0' END END
        FROM keyed CROSS JOIN LATERAL (
            SELECT CASE
                WHEN batch IS NOT NULL
                    AND keys[(batch->>'alone')::integer] IS DISTINCT FROM 'true'
                THEN make_interval(secs => (batch->>'timeout')::float8)
                ELSE interval '0' END AS gathering
        ) AS waits
        RETURNING id, event_id, function
    ),
    cancel_waits AS (  -- a wait for each event that would cancel them (cancel_on)
        INSERT INTO runyard.waits (
            invocation_id, step, kind, event, match_paths, match_value, filter, condition, since,
            expires_at)
        SELECT created.id, 'cancel-on-' || position, 'cancel', own.rule->>'event',
            own.rule->'match_paths', own.rule->>'match_value', (own.rule->>'filter')::jsonpath,
            nullif(own.rule->'condition', 'null'), pg_current_snapshot(),
            matches.due + make_interval(secs => (own.rule->>'timeout')::float8)
        FROM created
        JOIN matches ON matches.id = created.event_id AND matches.function = created.function
            AND matches.flow ? 'cancel_on'
        CROSS JOIN LATERAL jsonb_array_elements(matches.flow->'cancel_on')
            WITH ORDINALITY AS rules (rule, position)
        CROSS JOIN LATERAL runyard.own_rule_v1(
            rules.rule,
            runyard.document_v1(
                matches.id, matches.name, matches.data, matches."user", matches.v, matches.ts)
        ) AS own (rule)
        WHERE own.rule IS NOT NULL
    )
    SELECT string_agg(DISTINCT function, ',') INTO woken FROM created;
    IF woken IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    -- (by waits_event)
    ELSIF EXISTS (
        SELECT FROM (SELECT DISTINCT name FROM arrived) AS names
        JOIN runyard.waits ON waits.event = names.name AND waits.resolved_at IS NULL
    ) THEN
        PERFORM runyard.wake_v1('');
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER fan_out AFTER INSERT ON runyard.events
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v1();
CREATE TRIGGER fan_out AFTER INSERT ON runyard.missed_events
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v1();

-- The timeout to start counts from the commit of the event, not from the beginning of the
-- transaction that sent it: before the commit nobody could start it.
CREATE FUNCTION runyard.start_from_commit_v1() RETURNS trigger
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    late CONSTANT interval := clock_timestamp() - pg_catalog.now();
BEGIN
    IF late > interval '1 second' THEN
        UPDATE runyard.invocations
        SET expires_at = greatest(
            expires_at,
            runyard.now_v1() + late
                + make_interval(secs => (functions.flow->>'start_timeout')::float8))
        FROM runyard.functions
        WHERE id = NEW.id AND functions.name = NEW.function AND status = 'queued';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER start_from_commit
    AFTER INSERT ON runyard.invocations DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.expires_at IS NOT NULL)
    EXECUTE FUNCTION runyard.start_from_commit_v1();

-- Inserts a JSON array of events, all or none, and returns the id of each, in order. An element
-- has: name, data, id (the sender's idempotency key), ulid (the row's id), ts (ms since the epoch),
-- user, v, target, caused_by, source, trace, meta, sender. An event whose key is taken, or whose
-- ulid exists already (a request sent again), is not inserted: the id of the first one is returned.
CREATE FUNCTION runyard.send_v1(batch jsonb, source text) RETURNS SETOF text
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    keyed    boolean;
    inserted bigint;
BEGIN
    SELECT bool_or(element->>'id' IS NOT NULL) INTO keyed
    FROM jsonb_array_elements(batch) AS element;
    IF keyed THEN
        -- Keys are free again after a day. (by events_idempotency_key)
        UPDATE runyard.events SET idempotency_key = NULL
        FROM jsonb_to_recordset(batch) AS sent (id text, name text, sender text)
        WHERE events.idempotency_key = sent.id AND events.name = sent.name
            AND events.sender = coalesce(sent.sender, '')
            AND events.received_at < runyard.now_v1() - interval '24 hours';
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(batch) AS element WHERE NOT element ? 'ulid') THEN
        SELECT jsonb_agg(
            jsonb_build_object('ulid', runyard.ulid_v1()) || element ORDER BY position)
        INTO batch
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position);
    END IF;
    INSERT INTO runyard.events (
        id, idempotency_key, name, data, "user", v, ts, source, target, caused_by, trace, meta,
        sender)
    SELECT sent.ulid, sent.id, sent.name, coalesce(sent.data, '{}'), sent."user", sent.v,
        coalesce(to_timestamp(sent.ts / 1000.0), runyard.now_v1()),
        coalesce(sent.source, send_v1.source), sent.target, sent.caused_by, sent.trace, sent.meta,
        coalesce(sent.sender, '')
    FROM jsonb_to_recordset(batch) AS sent (
        ulid text, id text, name text, data jsonb, "user" jsonb, v text, ts bigint, target text,
        caused_by bigint, source text, trace text, meta jsonb, sender text)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;
    -- What was not inserted must belong to the sender: the id of somebody else's event tells it
    -- nothing, and starts nothing. (by events_pkey, and only if something was not inserted)
    IF inserted < jsonb_array_length(batch) AND EXISTS (
        SELECT FROM jsonb_to_recordset(batch) AS sent (ulid text, name text, sender text)
        JOIN runyard.events ON events.id = sent.ulid
        WHERE events.name <> sent.name OR events.sender <> coalesce(sent.sender, '')
    ) THEN
        RAISE EXCEPTION
            'an event with this id already exists, and is not one of yours: nothing was sent; '
            'choose another id or seed'
            USING ERRCODE = 'unique_violation';
    END IF;
    IF NOT keyed OR keyed IS NULL THEN
        RETURN QUERY SELECT element->>'ulid'
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position)
            ORDER BY position;
    ELSE
        RETURN QUERY SELECT coalesce(events.id, element->>'ulid')
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position)
            LEFT JOIN runyard.events ON events.idempotency_key = element->>'id'
                AND events.name = element->>'name'
                AND events.sender = coalesce(element->>'sender', '')
            ORDER BY position;
    END IF;
END $$;

-- For applications' SQL: SELECT runyard.send('email/send.requested', '{"to": ...}').
CREATE FUNCTION runyard.send(
    name text, data jsonb DEFAULT '{}', id text DEFAULT NULL, ts timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF name IS NULL OR length(name) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'runyard.send: name must have 1 to 512 characters'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF name LIKE 'runyard/%' OR name LIKE 'inngest/%' THEN
        RAISE EXCEPTION
            'runyard.send: names that begin with runyard/ or inngest/ are reserved for internal '
            'events; choose another'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF data IS NULL OR jsonb_typeof(data) <> 'object' THEN
        RAISE EXCEPTION 'runyard.send: data must be a JSON object, not %',
            coalesce(jsonb_typeof(data), 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(data::text) > 524288 THEN
        RAISE EXCEPTION 'runyard.send: data has % bytes; an event may have 524288 (512 KiB)',
            octet_length(data::text) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN runyard.send_v1(
        jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
            'name', name, 'id', id, 'ts', floor(extract(epoch FROM ts) * 1000)::bigint))
            || jsonb_build_object('data', data)),
        'sql');
END $$;

-- Notes when a function is removed from the code, and when it is restored.
CREATE FUNCTION runyard.note_removal_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.active THEN
        NEW.removed_at := runyard.now_v1();
        NEW.removed_snapshot := pg_current_snapshot();
        NEW.restored_at := NULL;
        NEW.restored_snapshot := NULL;
    ELSIF NEW.removed_snapshot IS NOT NULL THEN
        NEW.restored_at := runyard.now_v1();
        NEW.restored_snapshot := pg_current_snapshot();
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER note_removal BEFORE UPDATE OF active ON runyard.functions
    FOR EACH ROW WHEN (OLD.active <> NEW.active) EXECUTE FUNCTION runyard.note_removal_v1();

-- Starts a restored function for the events of the last 24 hours that would have triggered it while
-- it was removed. Looks at up to `most` events after the one with the id `after`, and skips those
-- that have started it already. Returns the id of the last event it looked at, NULL when there are
-- no more. Only one process at a time does this for a function.
-- (by events_received_at, invocations_event, events_pkey)
CREATE FUNCTION runyard.catch_up_v1(name text, after text, most integer) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    fn runyard.functions;
    began timestamptz;
    last text;
BEGIN
    PERFORM pg_advisory_xact_lock(8290, hashtext('catch up ' || catch_up_v1.name));
    SELECT * INTO fn FROM runyard.functions
    WHERE functions.name = catch_up_v1.name AND active AND restored_snapshot IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- A transaction that began before the removal may have sent events after it.
    began := greatest(
        fn.removed_at - interval '1 hour', fn.restored_at - interval '24 hours');
    WITH looked_at AS (  -- the next events, whatever they are
        SELECT events.* FROM runyard.events
        WHERE (received_at, id) > (
            coalesce((SELECT received_at FROM runyard.events WHERE id = after), began),
            coalesce(after, ''))
        ORDER BY received_at, id LIMIT most
    ),
    missed AS (  -- those of them that the function has missed, fanned out again for it only
        INSERT INTO runyard.missed_events (id, name, data, "user", v, ts, target)
        SELECT id, looked_at.name, data, "user", v, ts, fn.name FROM looked_at
        WHERE NOT pg_visible_in_snapshot(xid, fn.removed_snapshot)
            AND CASE WHEN target IS NOT NULL THEN target = fn.name
                ELSE looked_at.name = ANY (fn.exact) OR (
                    fn.has_patterns AND runyard.triggered_v1(
                        fn.name, id, looked_at.name, data, "user", v, ts)) END
            AND NOT EXISTS (
                SELECT FROM runyard.invocations
                WHERE invocations.event_id = looked_at.id AND invocations.function = fn.name)
    )
    SELECT CASE WHEN count(*) = most THEN
        max(id) FILTER (WHERE received_at = (SELECT max(received_at) FROM looked_at)) END
    INTO last FROM looked_at;
    DELETE FROM runyard.missed_events;
    -- Senders that saw it removed may still have open transactions; once they are done, nothing
    -- more can be missing.
    IF last IS NULL AND fn.restored_at < runyard.now_v1() - interval '1 minute'
        AND pg_snapshot_xmin(pg_current_snapshot()) >= pg_snapshot_xmax(fn.restored_snapshot)
    THEN
        UPDATE runyard.functions SET removed_at = NULL, removed_snapshot = NULL,
            restored_at = NULL, restored_snapshot = NULL
        WHERE functions.name = fn.name;
    END IF;
    RETURN last;
END $$;
