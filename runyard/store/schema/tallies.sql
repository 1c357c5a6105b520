-- What happened, counted for `/metrics`: counters that outlive the rows they count, which retention
-- deletes, and that are right however many processes there are.
--
-- The statements that begin, end and record anything add a row here for what they did, of one event
-- or of five thousand. They only insert: nobody who sends an event in a long transaction makes
-- another wait. What has been added is folded into the totals at every scrape, and once a minute.

CREATE TABLE runyard.tallies (
    metric  text NOT NULL,
    name    text NOT NULL,
    label   text NOT NULL DEFAULT '',
    bucket  float8 NOT NULL DEFAULT 0,
    count   bigint NOT NULL,
    seconds float8 NOT NULL DEFAULT 0,
    at      timestamptz NOT NULL DEFAULT runyard.now_v1()
);
COMMENT ON TABLE runyard.tallies IS
    'What happened since the last fold, for the metrics.';

CREATE TABLE runyard.counters (
    metric  text NOT NULL CHECK (metric IN ('received', 'started', 'ended', 'step', 'lost')),
    name    text NOT NULL,
    label   text NOT NULL,
    bucket  float8 NOT NULL,
    count   bigint NOT NULL,
    seconds float8 NOT NULL,
    at      timestamptz NOT NULL DEFAULT runyard.now_v1(),
    PRIMARY KEY (metric, name, label, bucket)
) WITH (fillfactor = 70);
COMMENT ON TABLE runyard.counters IS
    'The totals of runyard.tallies, for as long as the code has the function or is for the event.';
COMMENT ON COLUMN runyard.counters.metric IS
    'received: events by name. started: run segments of invocations by function; the label is '
    'first or again, the time is that from due to start. ended: invocations by function and '
    'outcome; the time is that since their first start. step: attempts of steps by function and '
    'outcome. lost: leases taken from lost workers, by function.';
COMMENT ON COLUMN runyard.counters.bucket IS
    'The upper bound in seconds of the bucket of a histogram; 0 if nothing was timed.';
COMMENT ON COLUMN runyard.counters.at IS
    'When it was last counted up.';

-- The charts of the dev page: a row for each function and minute in which something happened, for a
-- day. The rows of all functions together are kept too, so that a chart of everything reads no more
-- rows than that of one function.
CREATE TABLE runyard.minute_stats (
    function text NOT NULL,
    minute   timestamptz NOT NULL,
    starts   bigint NOT NULL,
    waited   float8 NOT NULL,
    ended    bigint NOT NULL,
    failed   bigint NOT NULL,
    PRIMARY KEY (function, minute)
) WITH (fillfactor = 70);
CREATE INDEX minute_stats_minute ON runyard.minute_stats (minute);
COMMENT ON TABLE runyard.minute_stats IS
    'What happened in each minute of the last 24 hours, by function.';
COMMENT ON COLUMN runyard.minute_stats.function IS 'Empty for all functions together.';
COMMENT ON COLUMN runyard.minute_stats.waited IS
    'The seconds from due to start of all starts, attempts after the first included.';

-- The upper bounds of the buckets: from the 10 ms of a step to the days of a function that sleeps.
CREATE FUNCTION runyard.buckets_v1() RETURNS float8[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400, Infinity}'
        ::float8[]
$$;

-- The bucket of a time in seconds.
CREATE FUNCTION runyard.bucket_v1(seconds float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (runyard.buckets_v1())[width_bucket(seconds, runyard.buckets_v1()) + 1]
$$;

-- Adds the tallies to the counters, unless another process is doing that. Returns how many there
-- were. Senders choose the names of events, so only names that a function has as a trigger count by
-- themselves, and no more than `most_names` of them; all others are `other`.
-- What began and ended is also added to its minute in runyard.minute_stats, and what is older than
-- a day is deleted there.
-- (runyard.tallies is scanned: a minute's rows at most; by counters_pkey, triggers_event,
-- minute_stats_pkey, minute_stats_minute)
CREATE FUNCTION runyard.fold_tallies_v1(most_names integer) RETURNS integer
LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    known text[];
    folded integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(8290, 3) OR NOT EXISTS (SELECT FROM runyard.tallies) THEN
        RETURN 0;
    END IF;
    DELETE FROM runyard.minute_stats WHERE minute < runyard.now_v1() - interval '24 hours';
    SELECT coalesce(array_agg(DISTINCT name), '{}') INTO known
    FROM runyard.counters WHERE metric = 'received' AND name <> 'other';
    WITH taken AS (
        DELETE FROM runyard.tallies RETURNING *
    ),
    added AS (  -- names that have a counter from now on
        SELECT name FROM (
            SELECT DISTINCT name FROM taken WHERE metric = 'received' AND NOT name = ANY (known)
        ) AS unknown
        WHERE EXISTS (
            SELECT FROM runyard.triggers WHERE NOT wildcard AND triggers.event = unknown.name)
        ORDER BY name LIMIT greatest(0, most_names - cardinality(known))
    ),
    summed AS (
        SELECT metric, CASE
                WHEN metric <> 'received' OR name = ANY (known) OR name IN (SELECT name FROM added)
                    THEN name
                ELSE 'other' END AS name,
            label, bucket, sum(count) AS count, sum(seconds) AS seconds, count(*) AS rows
        FROM taken GROUP BY 1, 2, 3, 4
    ),
    counted AS (
        INSERT INTO runyard.counters AS total (metric, name, label, bucket, count, seconds)
        SELECT metric, name, label, bucket, count, seconds FROM summed
        ON CONFLICT (metric, name, label, bucket) DO UPDATE
        SET count = total.count + excluded.count, seconds = total.seconds + excluded.seconds,
            at = excluded.at
    ),
    by_minute AS (
        INSERT INTO runyard.minute_stats AS minute (function, minute, starts, waited, ended, failed)
        SELECT coalesce(name, ''), date_trunc('minute', at),
            coalesce(sum(count) FILTER (WHERE metric = 'started'), 0),
            coalesce(sum(seconds) FILTER (WHERE metric = 'started'), 0),
            coalesce(sum(count) FILTER (WHERE metric = 'ended'), 0),
            coalesce(sum(count) FILTER (WHERE metric = 'ended' AND label = 'failed'), 0)
        FROM taken WHERE metric IN ('started', 'ended')
        GROUP BY GROUPING SETS ((name, 2), (2))
        ON CONFLICT (function, minute) DO UPDATE
        SET starts = minute.starts + excluded.starts, waited = minute.waited + excluded.waited,
            ended = minute.ended + excluded.ended, failed = minute.failed + excluded.failed
    )
    SELECT sum(rows) INTO folded FROM summed;
    RETURN coalesce(folded, 0);
END $$;
