-- Whose an event is: an idempotency key belongs to a sender and an event's name, so that no sender can take or see another's.

ALTER TABLE runyard.events ADD COLUMN sender text NOT NULL DEFAULT '';
COMMENT ON COLUMN runyard.events.sender IS 'Who sent it: the tenant or the id of a key, signed posts; empty for what has the database itself (Python, SQL, steps, webhooks).';
COMMENT ON COLUMN runyard.events.idempotency_key IS 'The id the sender gave. Another event of this sender and name with it within 24 h starts nothing; later the key is free again.';
DROP INDEX runyard.events_idempotency_key;
CREATE UNIQUE INDEX events_idempotency_key ON runyard.events (idempotency_key, name, sender) WHERE idempotency_key IS NOT NULL;

ALTER TABLE runyard.keys ADD COLUMN tenant text CHECK (length(tenant) BETWEEN 1 AND 100);
COMMENT ON COLUMN runyard.keys.tenant IS 'Keys of one tenant share their idempotency keys, so that one can replace another; NULL: it shares them with none.';

-- Inserts a JSON array of events, all or none, and gives the id of each, in order.
-- An element: name, data, id (the sender's idempotency key), ulid (the row's id), ts (ms since the epoch), user, v, target, caused_by, source, trace,
-- meta, sender.
-- An event whose key is taken, or whose ulid is there already (a request sent again), is not inserted: the id of the first one is given.
CREATE FUNCTION runyard.send_v2(batch jsonb, source text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    keyed    boolean;
    inserted bigint;
BEGIN
    SELECT bool_or(element->>'id' IS NOT NULL) INTO keyed FROM jsonb_array_elements(batch) AS element;
    IF keyed THEN
        -- by events_idempotency_key
        UPDATE runyard.events SET idempotency_key = NULL
        FROM jsonb_to_recordset(batch) AS sent (id text, name text, sender text)
        WHERE events.idempotency_key = sent.id AND events.name = sent.name AND events.sender = coalesce(sent.sender, '')
            AND events.received_at < runyard.now() - interval '24 hours';
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(batch) AS element WHERE NOT element ? 'ulid') THEN
        SELECT jsonb_agg(jsonb_build_object('ulid', runyard.ulid()) || element ORDER BY position) INTO batch
        FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position);
    END IF;
    INSERT INTO runyard.events (id, idempotency_key, name, data, "user", v, ts, source, target, caused_by, trace, meta, sender)
    SELECT sent.ulid, sent.id, sent.name, coalesce(sent.data, '{}'), sent."user", sent.v,
           coalesce(to_timestamp(sent.ts / 1000.0), runyard.now()), coalesce(sent.source, send_v2.source), sent.target, sent.caused_by, sent.trace, sent.meta,
           coalesce(sent.sender, '')
    FROM jsonb_to_recordset(batch)
        AS sent (ulid text, id text, name text, data jsonb, "user" jsonb, v text, ts bigint, target text, caused_by bigint, source text, trace text, meta jsonb,
            sender text)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;
    -- What was not inserted must be the sender's own: the id of another's event says nothing to it, and starts nothing.
    -- (by events_pkey, and only where something was left out)
    IF inserted < jsonb_array_length(batch) AND EXISTS (
        SELECT FROM jsonb_to_recordset(batch) AS sent (ulid text, name text, sender text)
        JOIN runyard.events ON events.id = sent.ulid
        WHERE events.name <> sent.name OR events.sender <> coalesce(sent.sender, '')
    ) THEN
        RAISE EXCEPTION 'an event with this id is there already, and is not one of yours: nothing was sent; choose another id or seed'
            USING ERRCODE = 'unique_violation';
    END IF;
    IF NOT keyed OR keyed IS NULL THEN
        RETURN QUERY SELECT element->>'ulid'
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position) ORDER BY position;
    ELSE
        RETURN QUERY SELECT coalesce(events.id, element->>'ulid')
            FROM jsonb_array_elements(batch) WITH ORDINALITY AS elements (element, position)
            LEFT JOIN runyard.events ON events.idempotency_key = element->>'id' AND events.name = element->>'name'
                AND events.sender = coalesce(element->>'sender', '')
            ORDER BY position;
    END IF;
END $$;

-- Processes of the code before this one go on with it.
CREATE OR REPLACE FUNCTION runyard.send_v1(batch jsonb, source text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT runyard.send_v2(batch, source)
$$;
