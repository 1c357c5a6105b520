-- Launches that fail are no attempts: they hold their function back. Claims that were never launched are known as such.
-- What has lost two workers waits beside the others, and goes alone.

CREATE TABLE runyard.failed_launches (
    function text PRIMARY KEY,
    failures integer NOT NULL CHECK (failures >= 1),
    until    timestamptz NOT NULL,
    error    jsonb NOT NULL
);
COMMENT ON TABLE runyard.failed_launches IS 'Functions whose runs do not come to begin: no broker, no disk, no such job in the worker. The row goes with the next run that begins.';
COMMENT ON COLUMN runyard.failed_launches.failures IS 'Tries in a row; those that fail while it is held back count as one.';
COMMENT ON COLUMN runyard.failed_launches.until IS 'Nothing of it is claimed before; then one batch at a time, until one begins.';

ALTER TABLE runyard.batches ADD COLUMN launched_at timestamptz;
COMMENT ON COLUMN runyard.batches.launched_at IS 'When its run was given to the broker; NULL: only claimed so far, and free to be taken back when that takes long.';
-- What is open now was claimed by code that does not write it down.
UPDATE runyard.batches SET launched_at = claimed_at WHERE status IN ('claimed', 'running');

-- What is over already has ended, whenever that was; a constant default rewrites no row.
ALTER TABLE runyard.batches ADD COLUMN ended_at timestamptz DEFAULT now();
ALTER TABLE runyard.batches ALTER COLUMN ended_at DROP DEFAULT;
UPDATE runyard.batches SET ended_at = NULL WHERE status IN ('claimed', 'running');
COMMENT ON COLUMN runyard.batches.ended_at IS 'When the process was free again: a run goes on for a moment after its batch is settled.';
CREATE INDEX batches_ending ON runyard.batches (finished_at) WHERE ended_at IS NULL AND status IN ('finished', 'lost');

ALTER TABLE runyard.workers ADD COLUMN place text;
COMMENT ON COLUMN runyard.workers.place IS 'Where its process ids mean something: the boot of a machine, and the PID namespace.';

-- The queue, with what lost two workers behind a key of its own: the healthy ones of a priority are one range of the index.
DROP INDEX runyard.invocations_due;
CREATE INDEX invocations_due ON runyard.invocations (function, (CASE WHEN crashes < 2 THEN 0 ELSE 1 END), priority DESC, due_at, id)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL;
-- Few, and whatever their flow control: those that wait, and those that are under way.
CREATE INDEX invocations_crashed ON runyard.invocations (function, due_at, id) WHERE crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting');
CREATE INDEX invocations_crashing ON runyard.invocations (function) WHERE crashes >= 2 AND status IN ('claimed', 'running');
-- Of an empty table it would say that it stays small.
DO $$ BEGIN
    IF EXISTS (SELECT FROM runyard.invocations) THEN
        ANALYZE runyard.invocations;
    END IF;
END $$;

-- Until when nothing of a function is to be claimed, NULL where nothing holds it: it is paused, its launches fail, or one is being tried again.
-- (by functions_pkey, failed_launches_pkey, batches_open)
CREATE FUNCTION runyard.held_until_v1(fn text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM runyard.functions WHERE name = fn AND paused_at IS NOT NULL) THEN 'infinity'
        ELSE (
            SELECT CASE WHEN until > runyard.now() THEN until
                WHEN EXISTS (SELECT FROM runyard.batches WHERE status = 'claimed' AND function = fn) THEN 'infinity' END
            FROM runyard.failed_launches WHERE function = fn
        ) END
$$;

-- As before; what has lost two workers gets a lane of its own beside those that began before, marked twice. (by invocations_delayed)
CREATE OR REPLACE FUNCTION runyard.promote_v1(fn runyard.functions, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    fresh bigint[];
BEGIN
    WITH due AS (
        SELECT id, started_at FROM runyard.invocations
        WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL AND admitted
            AND due_at <= runyard.now()
        ORDER BY due_at, id LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id), array_agg(id) FILTER (WHERE started_at IS NULL) INTO ids, fresh FROM due;
    IF fresh IS NOT NULL AND fn.flow ? 'singleton' THEN
        ids := array(SELECT unnest(ids) EXCEPT SELECT unnest(fresh)) || runyard.singleton_v1(fn.name, fn.flow->'singleton', fresh);
    END IF;
    IF ids IS NOT NULL THEN
        UPDATE runyard.invocations SET
            lane = array_to_string(keys[1:(fn.flow->>'lanes')::integer], chr(31))
                || CASE WHEN started_at IS NULL THEN '' WHEN crashes < 2 THEN chr(30) ELSE chr(30) || chr(30) END
        WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting');
    END IF;
END $$;

-- As `claim_v1`, for a function that nothing holds back, and first one of those that lost two workers, where none of them is under way:
-- one after the other they have their turn beside the others (`alone` says that this is one). (by invocations_crashed, invocations_crashing, and as claim_v1)
CREATE FUNCTION runyard.claim_v2(name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean, OUT alone boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    crashed bigint[];
BEGIN
    size := 0;
    more := false;
    alone := false;
    IF just IS NULL THEN
        IF runyard.held_until_v1(name) IS NOT NULL THEN
            RETURN;
        END IF;
        SELECT array_agg(id) INTO crashed FROM (
            SELECT id FROM runyard.invocations
            WHERE function = claim_v2.name AND crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting') AND lane IS NOT NULL
                AND NOT EXISTS (
                    SELECT FROM runyard.invocations AS others
                    WHERE others.function = claim_v2.name AND others.crashes >= 2 AND others.status IN ('claimed', 'running'))
            ORDER BY due_at, id LIMIT 50
        ) AS oldest;
        IF crashed IS NOT NULL THEN
            SELECT c.size, c.event_id, c.previous_run INTO size, event_id, previous_run FROM runyard.claim_v1(name, batch, most, crashed) AS c;
            alone := size > 0;
        END IF;
    END IF;
    IF NOT alone THEN
        SELECT c.size, c.event_id, c.previous_run, c.more INTO size, event_id, previous_run, more FROM runyard.claim_v1(name, batch, most, just) AS c;
    END IF;
    IF just IS NOT NULL THEN  -- by a run that is there already
        UPDATE runyard.batches SET launched_at = now() WHERE id = batch;
    END IF;
END $$;

-- As `next_due_v1`, for a function that nothing holds back; else the end of that, where it is a time. (as held_until_v1 and next_due_v1)
CREATE FUNCTION runyard.next_due_v2(name text) RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN held.until IS NULL THEN runyard.next_due_v1(name)
        WHEN isfinite(held.until) THEN extract(epoch FROM held.until - runyard.now())::float8 END
    FROM (SELECT runyard.held_until_v1(name) AS until) AS held
$$;
