-- What the HTTP door needs: keys by their hash, progress messages, the trace that an event belongs to, changes since a moment.

CREATE TABLE runyard.keys (
    id          text PRIMARY KEY DEFAULT runyard.ulid(),
    hash        bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    hint        text NOT NULL,
    name        text NOT NULL,
    environment text NOT NULL,
    scopes      text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['send', 'read', 'manage']),
    events      text[],
    per_second  real CHECK (per_second > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    used_at     timestamptz,
    revoked_at  timestamptz
);
COMMENT ON TABLE runyard.keys IS 'The keys of the HTTP door. Only their SHA-256 is kept: they are random enough that nothing slower is needed.';
COMMENT ON COLUMN runyard.keys.hint IS 'How a key begins, to know it by.';
COMMENT ON COLUMN runyard.keys.environment IS 'Only gateways of this environment take it: a copy of the database elsewhere does not.';
COMMENT ON COLUMN runyard.keys.events IS 'The event names that it may send, with wildcards; NULL: all.';
COMMENT ON COLUMN runyard.keys.used_at IS 'When it was last used, to the minute.';

CREATE TABLE runyard.progress (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    percent       real NOT NULL CHECK (percent BETWEEN 0 AND 100),
    text          text NOT NULL,
    at            timestamptz NOT NULL DEFAULT runyard.now(),
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id()
);
COMMENT ON TABLE runyard.progress IS 'What steps say of how far they are, while they run.';
CREATE INDEX progress_invocation ON runyard.progress (invocation_id, id);

ALTER TABLE runyard.events
    ADD COLUMN trace text,
    ADD COLUMN meta jsonb;
COMMENT ON COLUMN runyard.events.trace IS 'The W3C traceparent of the request that sent it.';
COMMENT ON COLUMN runyard.events.meta IS 'What Inngest''s SDKs say about an event besides its data.';
-- The history of one name, newest first, however rare or common the name is.
CREATE INDEX events_name_received ON runyard.events (name, received_at, id);

-- Whether a row was written after a snapshot (NULL: always). `written` is the row's xmin, which has 32 bits of the 64: those above are of now, or one less.
CREATE FUNCTION runyard.written_after_v1(written xid, snapshot pg_snapshot) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT snapshot IS NULL OR NOT pg_visible_in_snapshot((
        SELECT CASE WHEN guess > latest THEN guess - 4294967296 ELSE guess END::text::xid8
        FROM (SELECT latest, ((latest >> 32) << 32) + written::text::bigint AS guess
            FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS latest) AS present) AS guessed
    ), snapshot)
$$;

-- As before, with an event's own source, trace and meta.
-- An element: name, data, id (the caller's idempotency key), ulid (the row's id), ts (ms since the epoch), user, v, target, caused_by, source, trace, meta.
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
    INSERT INTO runyard.events (id, idempotency_key, name, data, "user", v, ts, source, target, caused_by, trace, meta)
    SELECT sent.ulid, sent.id, sent.name, coalesce(sent.data, '{}'), sent."user", sent.v,
           coalesce(to_timestamp(sent.ts / 1000.0), runyard.now()), coalesce(sent.source, send_v1.source), sent.target, sent.caused_by, sent.trace, sent.meta
    FROM jsonb_to_recordset(batch)
        AS sent (ulid text, id text, name text, data jsonb, "user" jsonb, v text, ts bigint, target text, caused_by bigint, source text, trace text, meta jsonb)
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
