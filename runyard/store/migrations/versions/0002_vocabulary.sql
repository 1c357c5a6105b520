-- What functions can say: filters and wildcards, flow control, steps that park, what caused an event, how things end.

-- The time by which everything durable is judged. A test sets `runyard.clock` in its session and owns it.
CREATE FUNCTION runyard.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(current_setting('runyard.clock', true), '')::timestamptz, pg_catalog.now())
$$;

ALTER TABLE runyard.events
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    ADD COLUMN caused_by bigint,
    ALTER COLUMN ts SET DEFAULT runyard.now(),
    ALTER COLUMN received_at SET DEFAULT runyard.now();
COMMENT ON COLUMN runyard.events.xid IS 'The transaction that sent it: what tells whether it was committed before or after another moment, however late that was.';
COMMENT ON COLUMN runyard.events.caused_by IS 'The invocation whose step sent it.';
CREATE INDEX events_name ON runyard.events (name, xid);
CREATE INDEX events_caused_by ON runyard.events (caused_by) WHERE caused_by IS NOT NULL;

ALTER TABLE runyard.functions
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN exact text[] NOT NULL DEFAULT '{}',
    ADD COLUMN patterned boolean NOT NULL DEFAULT false,
    ADD COLUMN flow jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN key_paths jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN laned boolean NOT NULL DEFAULT false,
    ADD COLUMN gated boolean NOT NULL DEFAULT false,
    ADD COLUMN turn text COLLATE "C" NOT NULL DEFAULT '';
UPDATE runyard.functions SET exact = triggers;
COMMENT ON COLUMN runyard.functions.exact IS 'Event names that start it whatever their data: the quick way of the fan-out.';
COMMENT ON COLUMN runyard.functions.patterned IS 'It has wildcards or filters besides; they are in runyard.triggers.';
COMMENT ON COLUMN runyard.functions.flow IS 'Its flow control, as runyard/flow.py writes it.';
COMMENT ON COLUMN runyard.functions.key_paths IS 'The paths into the event that its flow control goes by; those that make the lane stand first.';
COMMENT ON COLUMN runyard.functions.laned IS 'Its invocations are claimed by lanes (one for each value of its keys), in turn.';
COMMENT ON COLUMN runyard.functions.gated IS 'Its invocations are looked at once before they may queue: some are skipped or put off.';
COMMENT ON COLUMN runyard.functions.turn IS 'The lane that was served last; the next claim begins behind it.';

CREATE TABLE runyard.triggers (
    function text NOT NULL,
    event    text NOT NULL,
    wildcard boolean NOT NULL DEFAULT false,
    filter   jsonpath
);
COMMENT ON TABLE runyard.triggers IS 'Every trigger of every function: an event name, or a LIKE pattern, and a filter over the event.';
CREATE INDEX triggers_function ON runyard.triggers (function);

ALTER TABLE runyard.invocations
    DROP CONSTRAINT invocations_status_check,
    ADD CONSTRAINT invocations_status_check CHECK
        (status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped')),
    ADD COLUMN keys text[],
    ADD COLUMN lane text COLLATE "C",
    ADD COLUMN admitted boolean NOT NULL DEFAULT true,
    ADD COLUMN since pg_snapshot,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN dismissed_at timestamptz,
    ALTER COLUMN due_at SET DEFAULT runyard.now(),
    ALTER COLUMN created_at SET DEFAULT runyard.now();
COMMENT ON COLUMN runyard.invocations.attempt IS 'Attempts begun of the step that it is at.';
COMMENT ON COLUMN runyard.invocations.keys IS 'The values of its function''s key paths in its event; NULL where the function has no lanes.';
COMMENT ON COLUMN runyard.invocations.lane IS 'Set while it is due and waits for its lane''s turn.';
COMMENT ON COLUMN runyard.invocations.admitted IS 'False until the gates of its function (idempotency, rate limit, debounce) have looked at it.';
COMMENT ON COLUMN runyard.invocations.since IS 'What was committed when this part of it began: later events count for the waits that it comes to.';
COMMENT ON COLUMN runyard.invocations.expires_at IS 'When its timeout cancels it: the one to start, then the one to finish.';
COMMENT ON COLUMN runyard.invocations.dismissed_at IS 'When a failure was dismissed or replayed; until then it is a dead letter.';

-- Three queues, each partial, so that a claim costs the same however many rows are finished or parked:
-- functions without lanes; those with lanes, while they are not due yet; and what waits in a lane.
DROP INDEX runyard.invocations_due;
CREATE INDEX invocations_due ON runyard.invocations (function, priority DESC, due_at, id)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL;
CREATE INDEX invocations_delayed ON runyard.invocations (function, due_at, id)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL AND admitted;
CREATE INDEX invocations_lane ON runyard.invocations (function, lane, priority DESC, due_at, id) WHERE lane IS NOT NULL;
CREATE INDEX invocations_arrived ON runyard.invocations (function, due_at, id) WHERE NOT admitted AND status = 'queued';
CREATE INDEX invocations_expiring ON runyard.invocations (expires_at)
    WHERE expires_at IS NOT NULL AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') AND cancel_requested_at IS NULL;
DROP INDEX runyard.invocations_failed;
CREATE INDEX invocations_failed ON runyard.invocations (function, id) WHERE status = 'failed' AND dismissed_at IS NULL;
CREATE INDEX invocations_function ON runyard.invocations (function, created_at, id);

ALTER TABLE runyard.steps ADD COLUMN tries smallint NOT NULL DEFAULT 1;
COMMENT ON COLUMN runyard.steps.tries IS 'How often this step was tried for this invocation.';

ALTER TABLE runyard.batches
    ADD COLUMN slots jsonb,
    ADD COLUMN cancelled bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN left_out jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN runyard.batches.slots IS 'What it holds of each concurrency limit while it is open: [{scope, key, n}].';
COMMENT ON COLUMN runyard.batches.cancelled IS 'Invocations that were cancelled while it holds them.';
COMMENT ON COLUMN runyard.batches.left_out IS 'The invocations that left it on the way to each op, for ops in other processes.';

CREATE TABLE runyard.waits (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('sleep', 'event', 'invoke', 'cancel')),
    event         text,
    shape         jsonb NOT NULL DEFAULT '[]',
    value         text NOT NULL DEFAULT '',
    filter        jsonpath,
    since         pg_snapshot,
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at    timestamptz NOT NULL DEFAULT runyard.now(),
    expires_at    timestamptz NOT NULL,
    resolved_at   timestamptz,
    result        jsonb,
    UNIQUE (invocation_id, step)
);
COMMENT ON TABLE runyard.waits IS 'What an invocation waits for: a time, an event, another function, or (kind cancel) the event that cancels it.';
COMMENT ON COLUMN runyard.waits.shape IS 'The paths in the awaited event that are compared; `value` is what they must hold.';
COMMENT ON COLUMN runyard.waits.since IS 'Only events that were not committed in this snapshot count.';
CREATE INDEX waits_event ON runyard.waits (event, shape, value) WHERE event IS NOT NULL AND resolved_at IS NULL;

CREATE TABLE runyard.watermark (snapshot pg_snapshot NOT NULL);
COMMENT ON TABLE runyard.watermark IS 'One row: the events that waits have been matched with so far.';
INSERT INTO runyard.watermark VALUES (pg_current_snapshot());

CREATE TABLE runyard.gates (
    id            text COLLATE "C" PRIMARY KEY GENERATED ALWAYS AS (gate || chr(31) || function || chr(31) || key) STORED,
    function      text NOT NULL,
    gate          text NOT NULL,
    key           text NOT NULL,
    until         timestamptz NOT NULL,
    log           timestamptz[] NOT NULL DEFAULT '{}',
    invocation_id bigint
);
COMMENT ON TABLE runyard.gates IS 'What flow control remembers of a key: a throttle''s clock, the times of a rate limit, the invocation that a debounce or a singleton is about.';
COMMENT ON COLUMN runyard.gates.id IS 'One column to look up by: with three, PostgreSQL takes the other index while it has no statistics, and reads all keys of a function for each.';
COMMENT ON COLUMN runyard.gates.until IS 'For a throttle its theoretical arrival time; for the others the time from which the row means nothing.';
CREATE INDEX gates_until ON runyard.gates (function, gate, until);

CREATE TABLE runyard.bulks (
    id          text PRIMARY KEY,
    action      text NOT NULL CHECK (action IN ('replay', 'cancel', 'dismiss')),
    selection   jsonb NOT NULL,
    upto        bigint NOT NULL,
    reached     bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL,
    done        bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
COMMENT ON TABLE runyard.bulks IS 'A replay, cancel or dismissal of many invocations: how far it has come, so that it can go on after a stop.';

-- A key as it is kept: short enough for an index, without the characters that part a lane.
CREATE FUNCTION runyard.short_v1(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN length(value) > 200 THEN left(translate(value, chr(30) || chr(31), ''), 150) || '~' || md5(value)
        ELSE translate(value, chr(30) || chr(31), '') END
$$;

-- An event as filters and paths see it.
CREATE FUNCTION runyard.document_v1(id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', id, 'name', name, 'data', data, 'user', "user", 'v', v, 'ts', floor(extract(epoch FROM ts) * 1000)::bigint)
$$;

-- The values of these paths ([["data", "tenant"], ...]), '' for what is not there.
CREATE FUNCTION runyard.keys_v1(document jsonb, paths jsonb) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(runyard.short_v1(coalesce(document #>> ARRAY(SELECT jsonb_array_elements_text(path)), '')) ORDER BY position), '{}')
    FROM jsonb_array_elements(paths) WITH ORDINALITY AS listed (path, position)
$$;

-- The values of these paths as one text, with their types: what a wait's `value` is compared with.
CREATE FUNCTION runyard.value_v1(document jsonb, shape jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(runyard.short_v1(string_agg(coalesce((document #> ARRAY(SELECT jsonb_array_elements_text(path)))::text, 'null'), ' ' ORDER BY position)), '')
    FROM jsonb_array_elements(shape) WITH ORDINALITY AS listed (path, position)
$$;

-- Whether a filter lets an event through: its first item is there, and neither false nor null.
CREATE FUNCTION runyard.passes_v1(document jsonb, filter jsonpath) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT filter IS NULL OR coalesce(jsonb_path_query_first(document, filter, '{}', true) NOT IN ('false', 'null'), false)
$$;

-- Whether a wildcard or filter of a function lets an event through. (by triggers_function)
CREATE FUNCTION runyard.triggered_v1(function text, id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.triggers
        WHERE triggers.function = triggered_v1.function
            AND CASE WHEN wildcard
                THEN triggered_v1.name LIKE triggers.event AND (triggered_v1.name NOT LIKE 'runyard/%' OR triggers.event LIKE 'runyard/%')
                ELSE triggered_v1.name = triggers.event END
            AND runyard.passes_v1(runyard.document_v1(id, name, data, "user", v, ts), filter)
    )
$$;

-- A priority from a path into the event, within its bounds; 0 where the event has no number there.
CREATE FUNCTION runyard.priority_v1(document jsonb, rule jsonb) RETURNS smallint LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT least(greatest(round(found::numeric), (rule->>'low')::numeric), (rule->>'high')::numeric)::smallint
        FROM jsonb_path_query_first(document, (rule->>'path')::jsonpath, '{}', true) AS found
        WHERE jsonb_typeof(found) = 'number'
    ), 0)
$$;

-- Every inserted event x every function that waits for it = one invocation; one NOTIFY per statement.
-- It only reads and inserts, and takes no lock that another sender could wait for: an event may be part of any transaction.
CREATE FUNCTION runyard.fan_out_v2() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    woken text;
BEGIN
    WITH wanted AS (
        SELECT arrived.*, functions.name AS function, functions.flow, functions.key_paths, functions.laned, functions.gated,
            functions.priority AS base, greatest(arrived.ts, runyard.now()) AS due
        FROM arrived
        JOIN runyard.functions ON functions.active AND CASE
            WHEN arrived.target IS NOT NULL THEN arrived.target = functions.name
            ELSE arrived.name = ANY (functions.exact)
                OR (functions.patterned AND runyard.triggered_v1(functions.name, arrived.id, arrived.name, arrived.data, arrived."user", arrived.v, arrived.ts)) END
    ),
    keyed AS (
        SELECT wanted.*, CASE WHEN laned
            THEN runyard.keys_v1(runyard.document_v1(id, name, data, "user", v, ts), key_paths) END AS keys
        FROM wanted
    ),
    made AS (
        INSERT INTO runyard.invocations (event_id, function, priority, due_at, keys, lane, admitted, expires_at)
        SELECT id, function,
            CASE WHEN flow ? 'priority' THEN runyard.priority_v1(runyard.document_v1(id, name, data, "user", v, ts), flow->'priority') ELSE base END,
            due + CASE WHEN flow ? 'batch' THEN make_interval(secs => (flow->'batch'->>'wait')::float8) ELSE interval '0' END,
            keys,
            CASE WHEN laned AND NOT gated AND NOT flow ? 'singleton' AND due <= runyard.now() THEN array_to_string(keys[1:(flow->>'lanes')::integer], chr(31)) END,
            NOT gated,
            CASE WHEN flow ? 'start_within' THEN due + make_interval(secs => (flow->>'start_within')::float8) END
        FROM keyed
        RETURNING id, event_id, function
    ),
    cancelling AS (
        INSERT INTO runyard.waits (invocation_id, step, kind, event, shape, value, filter, since, expires_at)
        SELECT made.id, 'cancel-on-' || position, 'cancel', rule->>'event', rule->'shape',
            runyard.value_v1(runyard.document_v1(wanted.id, wanted.name, wanted.data, wanted."user", wanted.v, wanted.ts), rule->'own'),
            (rule->>'filter')::jsonpath, pg_current_snapshot(), wanted.due + make_interval(secs => (rule->>'within')::float8)
        FROM made JOIN wanted ON wanted.id = made.event_id AND wanted.function = made.function AND wanted.flow ? 'cancel_on'
        CROSS JOIN LATERAL jsonb_array_elements(wanted.flow->'cancel_on') WITH ORDINALITY AS rules (rule, position)
    )
    SELECT string_agg(DISTINCT function, ',') INTO woken FROM made;
    IF woken IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    -- by waits_event
    ELSIF EXISTS (SELECT FROM (SELECT DISTINCT name FROM arrived) AS names JOIN runyard.waits ON waits.event = names.name AND waits.resolved_at IS NULL) THEN
        PERFORM runyard.wake_v1('');
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER fan_out ON runyard.events;
CREATE TRIGGER fan_out AFTER INSERT ON runyard.events
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v2();

-- Bring the keys of a function's open invocations up to its present key paths, after the code has changed them. (by invocations_function, events_pkey)
CREATE FUNCTION runyard.rekey_v1(name text) RETURNS void LANGUAGE sql AS $$
    UPDATE runyard.invocations SET
        keys = found.keys, admitted = CASE WHEN functions.gated THEN invocations.admitted ELSE true END,
        lane = CASE WHEN functions.laned AND status = 'queued' AND due_at <= runyard.now() AND (invocations.admitted OR NOT functions.gated)
                AND (started_at IS NOT NULL OR NOT functions.flow ? 'singleton')
            THEN array_to_string(found.keys[1:(functions.flow->>'lanes')::integer], chr(31)) || CASE WHEN started_at IS NULL THEN '' ELSE chr(30) END END
    FROM runyard.functions, runyard.events, LATERAL (
        SELECT CASE WHEN functions.laned THEN runyard.keys_v1(
            runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), functions.key_paths) END AS keys
    ) AS found
    WHERE functions.name = rekey_v1.name AND invocations.function = functions.name AND events.id = invocations.event_id
        AND invocations.status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
$$;

-- Inserts a JSON array of events, all or none, and gives the id of each, in order.
-- An element: name, data, id (the caller's idempotency key), ulid (the row's id), ts (ms since the epoch), user, v, target, caused_by.
-- An event whose key is taken, or whose ulid is there already (a request sent again), is not inserted: the id of the first one is given.
CREATE OR REPLACE FUNCTION runyard.send_v1(batch jsonb, source text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    SELECT array_agg(element->>'id') FILTER (WHERE element->>'id' IS NOT NULL) INTO keys
    FROM jsonb_array_elements(batch) AS element;
    IF keys IS NOT NULL THEN
        -- by events_idempotency_key
        UPDATE runyard.events SET idempotency_key = NULL
        WHERE idempotency_key = ANY (keys) AND received_at < runyard.now() - interval '24 hours';
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(batch) AS element WHERE NOT element ? 'ulid') THEN
        SELECT jsonb_agg(jsonb_build_object('ulid', runyard.ulid()) || element ORDER BY position) INTO batch
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position);
    END IF;
    INSERT INTO runyard.events (id, idempotency_key, name, data, "user", v, ts, source, target, caused_by)
    SELECT sent.ulid, sent.id, sent.name, coalesce(sent.data, '{}'), sent."user", sent.v,
           coalesce(to_timestamp(sent.ts / 1000.0), runyard.now()), send_v1.source, sent.target, sent.caused_by
    FROM jsonb_to_recordset(batch)
        AS sent (ulid text, id text, name text, data jsonb, "user" jsonb, v text, ts bigint, target text, caused_by bigint)
    ON CONFLICT DO NOTHING;
    IF keys IS NULL THEN
        RETURN QUERY SELECT element->>'ulid'
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position) ORDER BY position;
    ELSE
        RETURN QUERY SELECT coalesce(events.id, element->>'ulid')
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position)
            LEFT JOIN runyard.events ON events.idempotency_key = element->>'id'
            ORDER BY position;
    END IF;
END $$;
