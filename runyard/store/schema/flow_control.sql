-- Flow control, part of every claim of a function that has any: admission rules decide what is
-- skipped or postponed, then what is due moves to its lane, unless the same claim takes it. All of
-- it happens under one lock per function and one per shared scope, and never in a sender's
-- transaction.
--
-- Functions that join tables plan each call (force_custom_plan): without that they would inherit
-- the setting of claim_from_lanes_v1, which calls them.

-- Ends invocations as skipped, with the reason. (by invocations_pkey)
CREATE FUNCTION runyard.skip_v1(ids bigint[], reason text) RETURNS void LANGUAGE sql AS $$
    UPDATE runyard.invocations
    SET status = 'skipped', lane = NULL, admitted = true, finished_at = runyard.now_v1(),
        error = jsonb_build_object(
            'step', NULL, 'type', 'Skipped', 'message', reason, 'traceback', '')
    WHERE id = ANY (ids) AND status = 'queued'
$$;

-- Those of these invocations that have a value at a position among their keys; all of them if the
-- rule has no key. (by invocations_pkey)
CREATE FUNCTION runyard.with_key_v1(ids bigint[], place integer) RETURNS bigint[]
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN place IS NULL THEN ids
        ELSE array(
            SELECT id FROM runyard.invocations
            WHERE id = ANY (ids) AND keys[place] IS DISTINCT FROM runyard.no_key_v1()) END
$$;

-- Rate limit and idempotency: at most `limit` of a key in any `period`; the rest is skipped.
-- Returns the ids that pass; those without the key pass. If f(i) is the number of free places when
-- arrival i comes (it only grows within a chunk), then i + min(0, min over j <= i of f(j) - j) of
-- the first i pass. The state of a key is looked up in a subquery: a session plans once, and a join
-- planned for an empty table reads all keys for each arrival. A log is in order, so that a binary
-- search counts what is in the period, and new times are usually just appended.
-- (by invocations_pkey, flow_control_state_pkey)
CREATE FUNCTION runyard.apply_limit_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    kind    CONSTANT text := rule->>'kind';
    place   CONSTANT integer := (rule->>'key')::integer;
    period  CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    most    CONSTANT integer := (rule->>'limit')::integer;
    prefix  CONSTANT text := kind || chr(31) || name || chr(31);
    passed  bigint[];
    skipped bigint[];
BEGIN
    WITH arrived AS (  -- the arrivals with their key
        SELECT id, due_at AS at, coalesce(keys[place], '') AS key
        FROM runyard.invocations WHERE id = ANY (ids)
    ),
    counted AS (  -- those with a key, with their number i within it and the free places f(i)
        SELECT arrived.*,
            row_number() OVER (PARTITION BY arrived.key ORDER BY arrived.at, arrived.id) AS i,
            most - coalesce((
                SELECT cardinality(state.log) - width_bucket(arrived.at - period, state.log)
                FROM runyard.flow_control_state AS state WHERE state.id = prefix || arrived.key
            ), 0) AS free
        FROM arrived WHERE arrived.key <> runyard.no_key_v1()
    ),
    summed AS (  -- how many of the first i pass
        SELECT *, i + least(0, min(free - i) OVER (PARTITION BY key ORDER BY i)) AS taken
        FROM counted
    ),
    judged AS (  -- one passes if that number has grown with it
        SELECT *, taken > coalesce(lag(taken) OVER (PARTITION BY key ORDER BY i), 0) AS passes
        FROM summed
    ),
    remembered AS (  -- the times of those that pass are kept for as long as they count
        INSERT INTO runyard.flow_control_state AS state (function, kind, key, until, log)
        SELECT apply_limit_v1.name, kind, key, max(at) + period,
            array_agg(at ORDER BY at)
        FROM judged WHERE passes GROUP BY key
        ON CONFLICT (id) DO UPDATE SET until = greatest(state.until, excluded.until), log = CASE
            WHEN cardinality(state.log) + cardinality(excluded.log) <= most
                AND state.log[1] > excluded.until - 2 * period
                AND state.log[cardinality(state.log)] <= excluded.log[1]
            THEN state.log || excluded.log
            ELSE (
                SELECT array_agg(at ORDER BY at) FROM (
                    SELECT at FROM unnest(state.log || excluded.log) AS at
                    WHERE at > excluded.until - 2 * period ORDER BY at DESC LIMIT most
                ) AS latest) END
    )
    SELECT array_agg(id) FILTER (WHERE passes), array_agg(id) FILTER (WHERE NOT passes)
    INTO passed, skipped
    FROM (
        SELECT id, passes FROM judged
        UNION ALL SELECT id, true FROM arrived WHERE key = runyard.no_key_v1()
    ) AS decided;
    IF skipped IS NOT NULL THEN
        PERFORM runyard.skip_v1(skipped, rule->>'reason');
    END IF;
    RETURN passed;
END $$;

-- Debounce: of arrivals of a key that come within `period` of each other only the last is run,
-- `period` after it, or `max_wait` after the first. A series has one pending invocation; an arrival
-- before that is due takes its place. Those without the key are not postponed.
-- (by invocations_pkey, flow_control_state_pkey)
CREATE FUNCTION runyard.debounce_v1(name text, rule jsonb, ids bigint[]) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    period   CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    max_wait CONSTANT interval := make_interval(secs => (rule->>'max_wait')::float8);
    replaced bigint[];
BEGIN
    WITH arrived AS (  -- the arrivals with their key
        SELECT id, due_at AS at, coalesce(keys[(rule->>'key')::integer], '') AS key
        FROM runyard.invocations
        WHERE id = ANY (runyard.with_key_v1(ids, (rule->>'key')::integer))
    ),
    firsts AS (  -- the first arrival of each key
        SELECT key, min(at) AS at FROM arrived GROUP BY key
    ),
    series AS (  -- the pending series of each key, if the first arrival is in time for it
        SELECT firsts.key, pending.id AS pending,
            CASE WHEN pending.id IS NULL THEN firsts.at ELSE state.log[1] END AS began
        FROM firsts
        LEFT JOIN runyard.flow_control_state AS state
            ON state.id = concat_ws(chr(31), 'debounce', debounce_v1.name, firsts.key)
        LEFT JOIN runyard.invocations AS pending
            ON pending.id = state.invocation_id AND pending.status = 'queued'
            AND pending.started_at IS NULL AND firsts.at < pending.due_at
    ),
    grouped AS (  -- a second series begins where the first one has lasted for `max_wait`
        SELECT arrived.*, series.began, series.pending,
            (arrived.at >= series.began + max_wait) AS late
        FROM arrived JOIN series USING (key)
    ),
    ranked AS (  -- the last arrival of each series has rank 1
        SELECT grouped.*,
            row_number() OVER (PARTITION BY key, late ORDER BY at DESC, id DESC) AS from_last,
            CASE WHEN late THEN min(at) OVER (PARTITION BY key, late) ELSE began END AS start
        FROM grouped
    ),
    postponed AS (  -- it runs once its key has been quiet for `period`
        UPDATE runyard.invocations
        SET due_at = least(ranked.at + period, ranked.start + max_wait),
            expires_at = expires_at
                + (least(ranked.at + period, ranked.start + max_wait) - due_at)
        FROM ranked WHERE invocations.id = ranked.id AND ranked.from_last = 1
    ),
    remembered AS (  -- it is the pending invocation of its key from now on
        INSERT INTO runyard.flow_control_state AS state (
            function, kind, key, until, log, invocation_id)
        SELECT DISTINCT ON (key) debounce_v1.name, 'debounce', key, ranked.start + max_wait,
            ARRAY[ranked.start], id
        FROM ranked WHERE from_last = 1 ORDER BY key, late DESC
        ON CONFLICT (id) DO UPDATE SET until = excluded.until, log = excluded.log,
            invocation_id = excluded.invocation_id
    )
    SELECT array_agg(id) INTO replaced FROM (
        SELECT id FROM ranked WHERE from_last > 1
        UNION SELECT pending FROM ranked WHERE NOT late AND pending IS NOT NULL
    ) AS earlier;
    PERFORM runyard.skip_v1(replaced, 'debounced: a later event took its place');
END $$;

-- Singleton: one invocation of a key at a time. Those that arrive while it lasts are skipped, or
-- (mode cancel) the last of them replaces it. Returns the ids that pass; those without the key
-- pass.
-- (by invocations_pkey, flow_control_state_pkey)
CREATE FUNCTION runyard.singleton_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    newest   CONSTANT boolean := rule->>'mode' = 'cancel';
    passed   bigint[];
    keyed    CONSTANT bigint[] := runyard.with_key_v1(ids, (rule->>'key')::integer);
    replaced bigint[];
BEGIN
    WITH arrived AS (  -- the arrivals with their key; the one that may pass has place 1
        SELECT id, coalesce(keys[(rule->>'key')::integer], '') AS key,
            row_number() OVER (
                PARTITION BY keys[(rule->>'key')::integer]
                ORDER BY CASE WHEN newest THEN -id ELSE id END) AS place
        FROM runyard.invocations WHERE id = ANY (keyed)
    ),
    judged AS (  -- each with the invocation of its key that is active already
        SELECT arrived.*, active.id AS active FROM arrived
        LEFT JOIN runyard.flow_control_state AS state
            ON state.id = concat_ws(chr(31), 'singleton', singleton_v1.name, arrived.key)
        LEFT JOIN runyard.invocations AS active
            ON active.id = state.invocation_id AND active.id <> arrived.id
            AND active.status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
            AND active.cancel_requested_at IS NULL
    ),
    passing AS (  -- one for each key that is free, or whose active one is to be replaced
        SELECT * FROM judged WHERE place = 1 AND (newest OR active IS NULL)
    ),
    remembered AS (  -- it is the active invocation of its key from now on
        INSERT INTO runyard.flow_control_state AS state (function, kind, key, until, invocation_id)
        SELECT singleton_v1.name, 'singleton', key, 'infinity', id FROM passing
        ON CONFLICT (id) DO UPDATE SET invocation_id = excluded.invocation_id
    )
    SELECT array_agg(id), array_agg(active) FILTER (WHERE active IS NOT NULL)
    INTO passed, replaced FROM passing;
    IF replaced IS NOT NULL THEN
        PERFORM runyard.cancel_v1(replaced, 'singleton: a later event took its place');
    END IF;
    PERFORM runyard.skip_v1(
        array(SELECT unnest(keyed) EXCEPT SELECT unnest(passed)),
        CASE WHEN newest THEN 'singleton: a later event took its place'
            ELSE 'singleton: another invocation of the same key was under way' END);
    RETURN passed || array(SELECT unnest(ids) EXCEPT SELECT unnest(keyed));
END $$;

-- Applies the admission rules of a function to what has arrived since the last claim, in the order
-- of arrival. A chunk spans less than the period of every rule, which is what makes each rule a
-- single set-based statement. Returns the ids that pass, locked; that they are admitted is for the
-- caller to write. (by invocations_arrived)
CREATE FUNCTION runyard.admit_v1(fn runyard.functions, most integer) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    ids   bigint[];
    rule  jsonb;
BEGIN
    WITH due AS (  -- the oldest arrivals that are due
        SELECT id, due_at FROM runyard.invocations
        WHERE function = fn.name AND NOT admitted AND status = 'queued'
            AND due_at <= runyard.now_v1()
        ORDER BY due_at, id LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id) INTO ids FROM due
    WHERE due_at < (SELECT min(due_at) FROM due)
        + make_interval(secs => (fn.flow->>'shortest_period')::float8);
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    FOR rule IN SELECT * FROM jsonb_array_elements(fn.flow->'limits') LOOP
        ids := runyard.apply_limit_v1(fn.name, rule, ids);
    END LOOP;
    IF fn.flow ? 'debounce' THEN
        PERFORM runyard.debounce_v1(fn.name, fn.flow->'debounce', ids);
    END IF;
    RETURN ids;
END $$;

-- Writes that invocations are admitted; what is due goes to its lane, in which events are gathered
-- until the timeout of their batch. (by invocations_pkey)
CREATE FUNCTION runyard.enqueue_v1(fn runyard.functions, ids bigint[]) RETURNS void
LANGUAGE sql AS $$
    UPDATE runyard.invocations SET admitted = true,
        due_at = CASE
            WHEN fn.flow ? 'batch'
                AND keys[(fn.flow->'batch'->>'alone')::integer] IS DISTINCT FROM 'true'
            THEN due_at + make_interval(secs => (fn.flow->'batch'->>'timeout')::float8)
            ELSE due_at END,
        lane = CASE WHEN due_at <= runyard.now_v1() AND NOT fn.flow ? 'singleton'
            THEN array_to_string(keys[1:(fn.flow->>'lane_keys')::integer], chr(31)) END
    WHERE id = ANY (ids) AND status = 'queued'
$$;

-- Moves what has become due to its lane. What has been started before has a separate lane, marked
-- with one character 30, because a throttle only counts starts; so have groups, which nothing joins
-- any more. Suspects have another, marked twice.
-- (by invocations_delayed)
CREATE FUNCTION runyard.promote_v1(fn runyard.functions, most integer) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    ids bigint[];
    fresh bigint[];
BEGIN
    WITH due AS (  -- what has become due and is in no lane
        SELECT id, started_at FROM runyard.invocations
        WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting')
            AND keys IS NOT NULL AND lane IS NULL AND admitted AND due_at <= runyard.now_v1()
        ORDER BY due_at, id LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id), array_agg(id) FILTER (WHERE started_at IS NULL)
    INTO ids, fresh FROM due;
    IF fresh IS NOT NULL AND fn.flow ? 'singleton' THEN
        ids := array(SELECT unnest(ids) EXCEPT SELECT unnest(fresh))
            || runyard.singleton_v1(fn.name, fn.flow->'singleton', fresh);
    END IF;
    IF ids IS NOT NULL THEN
        UPDATE runyard.invocations SET
            lane = array_to_string(keys[1:(fn.flow->>'lane_keys')::integer], chr(31)) || CASE
                WHEN started_at IS NULL AND leader_id IS NULL THEN ''
                WHEN crashes < 2 THEN chr(30)
                ELSE chr(30) || chr(30) END
        WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting');
    END IF;
END $$;

-- Counts the changes of what makes the keys and lanes of a function, whoever makes them.
CREATE FUNCTION runyard.next_generation_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.generation := OLD.generation + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER next_generation
    BEFORE UPDATE OF key_paths, uses_lanes, needs_admission, flow ON runyard.functions
    FOR EACH ROW WHEN (
        (OLD.key_paths, OLD.uses_lanes, OLD.needs_admission,
            OLD.flow->'lane_keys', OLD.flow ? 'singleton')
        IS DISTINCT FROM
        (NEW.key_paths, NEW.uses_lanes, NEW.needs_admission,
            NEW.flow->'lane_keys', NEW.flow ? 'singleton'))
    EXECUTE FUNCTION runyard.next_generation_v1();

-- Whether a function has waiting invocations whose keys are not those of its present flow control:
-- keys of an earlier generation, or none although it has lanes.
-- (by invocations_keyed, invocations_due)
CREATE FUNCTION runyard.has_stale_keys_v1(fn runyard.functions) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = fn.name AND generation < fn.generation
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
    ) OR (fn.uses_lanes AND EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
    ))
$$;

-- Gives up to `most` of them their present keys, and returns how many. Those that another
-- transaction has locked are left for the next time; those that are claimed or running come back
-- with their old keys, and get the new ones then.
-- (by invocations_keyed, invocations_due, events_pkey)
CREATE FUNCTION runyard.rekey_v1(name text, most integer) RETURNS integer
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    fn    runyard.functions;
    ids   bigint[];
BEGIN
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = rekey_v1.name;
    IF NOT FOUND OR NOT runyard.has_stale_keys_v1(fn) THEN
        RETURN 0;
    END IF;
    WITH earlier AS (  -- those with keys of an earlier generation
        SELECT id FROM runyard.invocations
        WHERE function = fn.name AND generation < fn.generation
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
        LIMIT most FOR UPDATE SKIP LOCKED
    ),
    without AS (  -- those without keys
        SELECT id FROM runyard.invocations
        WHERE fn.uses_lanes AND function = fn.name
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
        LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id) INTO ids
    FROM (SELECT id FROM earlier UNION ALL SELECT id FROM without LIMIT most) AS stale;
    UPDATE runyard.invocations
    SET keys = present.keys, generation = fn.generation,
        admitted = invocations.admitted OR NOT fn.needs_admission,
        lane = CASE
            WHEN fn.uses_lanes AND status = 'queued' AND due_at <= runyard.now_v1()
                AND (invocations.admitted OR NOT fn.needs_admission)
                AND (started_at IS NOT NULL OR replay_of IS NOT NULL OR NOT fn.flow ? 'singleton')
            THEN array_to_string(present.keys[1:(fn.flow->>'lane_keys')::integer], chr(31))
                || CASE
                    WHEN started_at IS NULL AND leader_id IS NULL THEN ''
                    ELSE chr(30) END END
    FROM runyard.events, LATERAL (
        SELECT CASE WHEN fn.uses_lanes THEN runyard.keys_v1(
            runyard.document_v1(
                events.id, events.name, events.data, events."user", events.v, events.ts),
            fn.key_paths) END AS keys
    ) AS present
    WHERE invocations.id = ANY (ids) AND events.id = invocations.event_id;
    RETURN coalesce(cardinality(ids), 0);
END $$;
