-- The event table: events, the functions that wait for them, and what came of each pair.

CREATE TABLE runyard.functions (
    name          text PRIMARY KEY,
    job           text NOT NULL,
    triggers      text[] NOT NULL,
    max_batch     integer NOT NULL CHECK (max_batch BETWEEN 1 AND 5000),
    priority      smallint NOT NULL DEFAULT 0,
    attempts      smallint NOT NULL CHECK (attempts >= 1),
    active        boolean NOT NULL DEFAULT true,
    registered_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE runyard.functions IS 'A function: a job and the event names that start it. Written when the code is loaded; inactive when the code no longer has it.';

-- A ULID (48 bits of milliseconds, 80 random bits, Crockford base 32) for events that plain SQL inserts.
CREATE FUNCTION runyard.ulid(at timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    alphabet CONSTANT text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    -- Bytes 6 and 8 of a random UUID carry its version and variant: step around them.
    noise  CONSTANT bytea := uuid_send(gen_random_uuid());
    millis bigint := floor(extract(epoch FROM at) * 1000);
    high   bigint := 0;
    low    bigint := 0;
    result text := '';
BEGIN
    FOR i IN 0..4 LOOP
        high := (high << 8) | get_byte(noise, i);
        low := (low << 8) | get_byte(noise, i + 10);
    END LOOP;
    FOR i IN 1..8 LOOP
        result := substr(alphabet, (low & 31)::integer + 1, 1) || result;
        low := low >> 5;
    END LOOP;
    FOR i IN 1..8 LOOP
        result := substr(alphabet, (high & 31)::integer + 1, 1) || result;
        high := high >> 5;
    END LOOP;
    FOR i IN 1..10 LOOP
        result := substr(alphabet, (millis & 31)::integer + 1, 1) || result;
        millis := millis >> 5;
    END LOOP;
    RETURN result;
END $$;

CREATE TABLE runyard.events (
    id              text PRIMARY KEY DEFAULT runyard.ulid(),
    idempotency_key text,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 512),
    data            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    "user"          jsonb,
    v               text,
    ts              timestamptz NOT NULL DEFAULT now(),
    received_at     timestamptz NOT NULL DEFAULT now(),
    source          text NOT NULL DEFAULT 'sql',
    target          text
);
COMMENT ON TABLE runyard.events IS 'What applications sent. An INSERT is an enqueue: the trigger fan_out makes the invocations in the same transaction.';
COMMENT ON COLUMN runyard.events.idempotency_key IS 'The id the caller gave. A second event with it within 24 h starts nothing; later the key is free again.';
COMMENT ON COLUMN runyard.events.ts IS 'When it happened; in the future: when it is to happen.';
COMMENT ON COLUMN runyard.events.target IS 'The one function it is meant for, whatever its triggers; NULL: all that wait for its name.';
CREATE UNIQUE INDEX events_idempotency_key ON runyard.events (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX events_received_at ON runyard.events (received_at, id);

-- No foreign keys to events and functions: the trigger is the only writer of new rows, and a check per row
-- would be a tenth of the cost of an insert.
CREATE TABLE runyard.invocations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text NOT NULL,
    function    text NOT NULL,
    status      text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'claimed', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt     smallint NOT NULL DEFAULT 0,
    crashes     smallint NOT NULL DEFAULT 0,
    priority    smallint NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    batch_id    text,
    run_id      text,
    output      jsonb,
    error       jsonb,
    replay_of   bigint,
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    finished_at timestamptz
);
COMMENT ON TABLE runyard.invocations IS 'One event for one function.';
COMMENT ON COLUMN runyard.invocations.attempt IS 'Attempts begun so far.';
COMMENT ON COLUMN runyard.invocations.crashes IS 'Workers that were lost under it. From the second on it is run alone, so that it harms no neighbour.';
CREATE INDEX invocations_event ON runyard.invocations (event_id);
-- The queue. Partial, so a claim costs the same however many rows are finished.
CREATE INDEX invocations_due ON runyard.invocations (function, priority DESC, due_at, id) WHERE status = 'queued';
CREATE INDEX invocations_failed ON runyard.invocations (function, id) WHERE status = 'failed';

CREATE TABLE runyard.steps (
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    attempt       smallint NOT NULL,
    run_id        text,
    output        jsonb,
    error         jsonb,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL,
    PRIMARY KEY (invocation_id, step)
);
COMMENT ON TABLE runyard.steps IS 'What a step of an invocation gave: its output, kept and never made again, or the error of its last attempt.';

CREATE TABLE runyard.batches (
    id           text PRIMARY KEY,
    function     text NOT NULL,
    status       text NOT NULL DEFAULT 'claimed' CHECK (status IN ('claimed', 'running', 'finished', 'lost')),
    invocations  bigint[] NOT NULL,
    run_id       text,
    worker       text,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    cancel_requested_at timestamptz
);
COMMENT ON TABLE runyard.batches IS 'A claim of invocations: a lease for one Dagster run. Its id is the fencing token of every write that the run makes.';
CREATE INDEX batches_open ON runyard.batches (status, heartbeat_at) WHERE status IN ('claimed', 'running');
CREATE INDEX batches_run ON runyard.batches (run_id);

CREATE TABLE runyard.workers (
    name         text PRIMARY KEY,
    host         text NOT NULL,
    pid          integer NOT NULL,
    slots        integer NOT NULL CHECK (slots >= 1),
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE runyard.workers IS 'The warm workers that are alive, and how many runs each can take at a time.';

-- Every inserted event x every function that waits for it = one invocation; one NOTIFY per statement.
CREATE FUNCTION runyard.fan_out_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    woken text;
BEGIN
    WITH made AS (
        INSERT INTO runyard.invocations (event_id, function, priority, due_at)
        SELECT arrived.id, functions.name, functions.priority, greatest(arrived.ts, now())
        FROM arrived
        JOIN runyard.functions ON functions.active AND CASE
            WHEN arrived.target IS NULL THEN arrived.name = ANY (functions.triggers)
            ELSE arrived.target = functions.name END
        RETURNING function
    )
    SELECT string_agg(DISTINCT function, ',') INTO woken FROM made;
    IF woken IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN NULL;
END $$;

-- Wakes the sensors of these functions (names with commas between). A payload over the limit of NOTIFY
-- (8,000 bytes) becomes an empty one, which wakes them all.
CREATE FUNCTION runyard.wake_v1(functions text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('runyard_due', CASE WHEN octet_length(functions) < 7900 THEN functions ELSE '' END)
$$;

CREATE TRIGGER fan_out AFTER INSERT ON runyard.events
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v1();

-- Inserts a JSON array of events, all or none, and gives the id of each, in order.
-- An element: name, data, id (the caller's idempotency key), ulid (the row's id), ts (ms since the epoch), user, v, target.
-- An event whose key is taken, or whose ulid is there already (a request sent again), is not inserted: the id of the first one is given.
CREATE FUNCTION runyard.send_v1(batch jsonb, source text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    keys text[];
BEGIN
    SELECT array_agg(element->>'id') FILTER (WHERE element->>'id' IS NOT NULL) INTO keys
    FROM jsonb_array_elements(batch) AS element;
    IF keys IS NOT NULL THEN
        -- by events_idempotency_key
        UPDATE runyard.events SET idempotency_key = NULL
        WHERE idempotency_key = ANY (keys) AND received_at < now() - interval '24 hours';
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(batch) AS element WHERE NOT element ? 'ulid') THEN
        SELECT jsonb_agg(jsonb_build_object('ulid', runyard.ulid()) || element ORDER BY position) INTO batch
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position);
    END IF;
    INSERT INTO runyard.events (id, idempotency_key, name, data, "user", v, ts, source, target)
    SELECT sent.ulid, sent.id, sent.name, coalesce(sent.data, '{}'), sent."user", sent.v,
           coalesce(to_timestamp(sent.ts / 1000.0), now()), send_v1.source, sent.target
    FROM jsonb_to_recordset(batch)
        AS sent (ulid text, id text, name text, data jsonb, "user" jsonb, v text, ts bigint, target text)
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

-- The door for plain SQL: SELECT runyard.send('email/send.requested', '{"to": ...}').
CREATE FUNCTION runyard.send(name text, data jsonb DEFAULT '{}', id text DEFAULT NULL, ts timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF name IS NULL OR length(name) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'runyard.send: name must have 1 to 512 characters' USING ERRCODE = 'invalid_parameter_value';
    ELSIF name LIKE 'runyard/%' OR name LIKE 'inngest/%' THEN
        RAISE EXCEPTION 'runyard.send: names that begin with runyard/ or inngest/ are kept for internal events; choose another' USING ERRCODE = 'invalid_parameter_value';
    ELSIF data IS NULL OR jsonb_typeof(data) <> 'object' THEN
        RAISE EXCEPTION 'runyard.send: data must be a JSON object, not %', coalesce(jsonb_typeof(data), 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(data::text) > 524288 THEN
        RAISE EXCEPTION 'runyard.send: data has % bytes; an event may have 524288 (512 KiB)', octet_length(data::text) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN runyard.send_v1(jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'name', name, 'id', id, 'ts', floor(extract(epoch FROM ts) * 1000)::bigint)) || jsonb_build_object('data', data)), 'sql');
END $$;
