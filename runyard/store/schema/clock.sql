-- Time and ids, which the defaults of the tables use.

-- The time that everything durable is decided by. A test that sets `runyard.clock` in its session
-- controls it.
CREATE FUNCTION runyard.now_v1() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        nullif(current_setting('runyard.clock', true), '')::timestamptz, pg_catalog.now())
$$;

-- The same for applications' own SQL.
CREATE FUNCTION runyard.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT runyard.now_v1()
$$;

-- A ULID (48 bits of milliseconds, 80 random bits, Crockford base 32) for events inserted by plain
-- SQL.
CREATE FUNCTION runyard.ulid_v1(at timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    alphabet CONSTANT text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    -- Bytes 6 and 8 of a random UUID carry its version and variant: they are skipped.
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

-- The id that an invocation's run has in Inngest's protocol: a ULID with the time at which it was
-- created, and its number in the last 64 bits (runyard/apps/run_ids.py).
CREATE FUNCTION runyard.run_id_v1(invocation bigint, created_at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(
        substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', CASE
            WHEN position <= 10
                THEN floor(extract(epoch FROM created_at) * 1000)::bigint
                    >> 5 * (10 - position) & 31
            WHEN position <= 13 THEN 0
            ELSE (invocation >> 5 * (26 - position)) & 31 END::integer + 1, 1),
        '' ORDER BY position)
    FROM generate_series(1, 26) AS position
$$;
