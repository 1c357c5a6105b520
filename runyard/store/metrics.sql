-- What `/metrics` reads. As in queries.sql, parameters are %(named)s.

-- name: fold_tallies
-- Add what has happened to the counters. (by counters_pkey, as
-- fold_tallies_v1)
SELECT runyard.fold_tallies_v1(%(most_names)s) AS count

-- name: counters
-- Every counter. (a small table: scanned)
SELECT metric, name, label, bucket, count, seconds FROM runyard.counters

-- name: buckets
-- The upper bounds of the buckets of histograms. (nothing scanned)
SELECT runyard.buckets_v1() AS bounds

-- name: busy_workers
-- How many runs each worker is executing, by the name of its process. (by batches_open)
SELECT worker, count(*) AS runs FROM runyard.batches
WHERE status = 'running' AND worker IS NOT NULL GROUP BY worker

-- name: database_sessions
-- How many sessions the server has, of all databases, by state, and how many it allows. PostgreSQL
-- hides the state and the type of sessions of roles of which this one is no member: they count as
-- unknown, parallel workers among them. (the server's own state: scanned)
SELECT coalesce(state, 'unknown') AS state, count(*) AS sessions,
    current_setting('max_connections')::integer AS allowed
FROM pg_stat_activity
WHERE usesysid IS NOT NULL AND datid IS NOT NULL
    AND coalesce(backend_type, 'client backend') = 'client backend'
GROUP BY 1

-- name: database_size
-- The size of this database in bytes. (the size of files, nothing scanned)
SELECT pg_database_size(current_database()) AS bytes
