-- Figures of a span of time, for reports. As in queries.sql, parameters are %(named)s.

-- name: events_rollup
-- Events that happened within a span, by name and source. (by events_ts)
SELECT name, source, count(*) AS events, count(*) FILTER (WHERE received_at >= %(end)s) AS late
FROM runyard.events
WHERE ts >= %(start)s AND ts < %(end)s GROUP BY name, source ORDER BY name, source

-- name: functions_rollup
-- Invocations created within a span, by function: how they ended, attempts, and the seconds until
-- they began and from there to their end. (by invocations_created_at)
SELECT function, count(*) AS invocations,
    count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE status = 'skipped') AS skipped,
    count(*) FILTER (WHERE finished_at IS NULL) AS open, sum(attempt) AS attempts,
    percentile_cont('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (
        ORDER BY greatest(0, extract(epoch FROM started_at - created_at)::float8)) AS wait,
    percentile_cont('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (
        ORDER BY extract(epoch FROM finished_at - started_at)::float8) AS run
FROM runyard.invocations
WHERE created_at >= %(start)s AND created_at < %(end)s GROUP BY function ORDER BY function

-- name: events_total
-- How many events happened within a span. (by events_ts)
SELECT count(*) AS events FROM runyard.events WHERE ts >= %(start)s AND ts < %(end)s

-- name: changed_days
-- The days (UTC) of which something has arrived or ended since a time. (by events_received_at; and
-- every invocation that ended since then: by invocations_created_at)
SELECT DISTINCT (ts AT TIME ZONE 'UTC')::date AS day FROM runyard.events
WHERE received_at >= %(since)s AND ts <= runyard.now_v1()
UNION
SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date FROM runyard.invocations
WHERE finished_at >= %(since)s AND created_at >= %(oldest)s

-- name: first_event
-- When the oldest event that still exists was received. (by events_received_at)
SELECT received_at AS at FROM runyard.events ORDER BY received_at, id LIMIT 1
