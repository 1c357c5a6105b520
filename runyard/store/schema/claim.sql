-- Claims: the invocations that a run gets, and when there may be something to claim. Functions
-- without flow control are claimed by the query `claim` of queries.sql, which uses suspects_v1.

-- Until when nothing of a function may be claimed, NULL if nothing blocks it: it is paused, its
-- launches fail, or a launch is being retried. (by functions_pkey, failed_launches_pkey,
-- batches_open)
CREATE FUNCTION runyard.held_until_v1(fn text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN EXISTS (
            SELECT FROM runyard.functions WHERE name = fn AND paused_at IS NOT NULL
        ) THEN 'infinity'
        ELSE (
            SELECT CASE
                WHEN until > runyard.now_v1() THEN until
                WHEN EXISTS (
                    SELECT FROM runyard.batches WHERE status = 'claimed' AND function = fn
                ) THEN 'infinity' END
            FROM runyard.failed_launches WHERE function = fn
        ) END
$$;

-- The suspects of a function without lanes that run next, locked; none while others of them run.
-- First those that are being bisected, because one of them killed its worker: one half runs; if
-- that goes well, the culprit is in the rest, which is halved in turn. Then those about which
-- nothing is known, together, or the fewer at a time the more culprits have been found; then the
-- culprits, each alone.
-- (by invocations_suspects, invocations_bisecting, invocations_crashing)
CREATE FUNCTION runyard.suspects_v1(name text, most integer) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    RETURN QUERY
    WITH next AS (  -- whose turn it is: bisecting 0, unknown 1, isolated 2
        SELECT CASE suspect WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END AS turn
        FROM runyard.invocations
        WHERE function = suspects_v1.name AND crashes >= 2
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
            AND due_at <= runyard.now_v1()
            AND NOT EXISTS (
                SELECT FROM runyard.invocations AS others
                WHERE others.function = suspects_v1.name AND others.crashes >= 2
                    AND others.status IN ('claimed', 'running'))
        ORDER BY CASE suspect WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END,
            due_at, id
        LIMIT 1
    )
    SELECT id FROM runyard.invocations
    WHERE function = suspects_v1.name AND crashes >= 2
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
        AND due_at <= runyard.now_v1()
        AND CASE suspect WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END
            = (SELECT turn FROM next)
    ORDER BY due_at, id LIMIT (
        SELECT CASE turn
            WHEN 0 THEN least(most, ((
                SELECT count(*) FROM runyard.invocations
                WHERE function = suspects_v1.name AND suspect = 'bisecting'
                    AND status IN ('queued', 'sleeping', 'waiting')
                    AND keys IS NULL AND due_at <= runyard.now_v1()
                ) + 1) / 2)
            WHEN 1 THEN ceil(most / (1.0 + (
                SELECT count(*) FROM runyard.invocations
                WHERE function = suspects_v1.name AND crashes >= 2
                    AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
                    AND CASE suspect WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END
                        = 2)))
            ELSE 1 END
        FROM next)
    FOR UPDATE SKIP LOCKED;
END $$;

-- How many invocations may start `at` a time under a throttle that lets one through every `seconds`
-- and `burst` at once, if its key has this theoretical arrival time: the generic cell rate
-- algorithm (ITU-T I.371).
CREATE FUNCTION runyard.throttle_places_v1(
    at timestamptz, arrival timestamptz, burst integer, seconds float8)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(0, 1 + floor(
        (extract(epoch FROM at - greatest(arrival, at)) + (burst - 1) * seconds + 1e-6)
        / seconds))::integer
$$;

-- The same now, with the rule as it is in the flow control of a function.
CREATE FUNCTION runyard.throttle_allowance_v1(rule jsonb, arrival timestamptz) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT runyard.throttle_places_v1(
        runyard.now_v1(), arrival, (rule->>'burst')::integer, (rule->>'interval')::float8)
$$;

-- Claims from the lanes of a function, within every limit. `fresh` has been admitted by this claim
-- and is in no lane yet: what of it is claimed is written once, the rest goes to its lane. `just`
-- restricts the claim to these invocations. No row is locked before it is taken, except `fresh`: no
-- other claim of the function runs at the same time, and what is cancelled meanwhile is not taken.
-- Planning takes 2.5 ms, more than a small claim, so a session plans once, perhaps when the tables
-- are still empty. Large tables are therefore looked up in subqueries and by arrays, where no join
-- can read an index whole. The lanes are joined by hashing (enable_nestloop): the planner expects
-- ten of them, and would compare each of several hundred with every other.
-- (by invocations_lane, invocations_pkey, batches_open, flow_control_state_pkey)
CREATE FUNCTION runyard.take_from_lanes_v1(
    fn runyard.functions, batch text, most integer, just bigint[], fresh bigint[],
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_nestloop = off SET jit = off
AS $$
DECLARE
    batching CONSTANT boolean := fn.flow ? 'batch';
    together CONSTANT boolean := coalesce(fn.flow->'batch' ? 'together', false);
    alone CONSTANT integer := (fn.flow->'batch'->>'alone')::integer;
    lanes_at_once CONSTANT integer := 150;
    lane_keys CONSTANT integer := (fn.flow->>'lane_keys')::integer;
    now CONSTANT timestamptz := runyard.now_v1();
    throttling CONSTANT boolean := fn.flow ? 'throttle';
    throttle_key CONSTANT integer := (fn.flow->'throttle'->>'key')::integer;
    burst CONSTANT integer := (fn.flow->'throttle'->>'burst')::integer;
    seconds CONSTANT float8 := (fn.flow->'throttle'->>'interval')::float8;
    pace CONSTANT interval := make_interval(secs => seconds);
    served_lane text;
    looked_at integer;
BEGIN
    WITH RECURSIVE ahead AS (  -- the lanes after the one that was served last, in order
        (SELECT lane, 1 AS n FROM runyard.invocations
         WHERE function = fn.name AND lane > fn.last_lane AND just IS NULL
         ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (
            SELECT invocations.lane FROM runyard.invocations
            WHERE function = fn.name AND invocations.lane > ahead.lane
            ORDER BY invocations.lane LIMIT 1), n + 1
        FROM ahead WHERE lane IS NOT NULL AND n < lanes_at_once
    ),
    behind AS (  -- then those from the first lane up to it
        (SELECT lane, 1 + (SELECT count(lane) FROM ahead)::integer AS n FROM runyard.invocations
         WHERE function = fn.name AND lane >= '' AND lane <= fn.last_lane AND just IS NULL
            AND (SELECT count(lane) FROM ahead) < lanes_at_once
         ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (
            SELECT invocations.lane FROM runyard.invocations
            WHERE function = fn.name AND invocations.lane > behind.lane
                AND invocations.lane <= fn.last_lane
            ORDER BY invocations.lane LIMIT 1), n + 1
        FROM behind WHERE lane IS NOT NULL AND n < lanes_at_once
    ),
    arrived AS (  -- what has just been admitted, with the lane that each goes to
        SELECT id, priority, due_at, crashes, generation,
            array_to_string(keys[1:lane_keys], chr(31)) COLLATE "C" AS lane
        FROM runyard.invocations WHERE id = ANY (fresh)
    ),
    reach AS (  -- the last lanes of the two walks, NULL where a walk has seen all there are
        SELECT CASE WHEN ahead.n >= lanes_at_once THEN ahead.lane END AS ahead,
            CASE WHEN ahead.n + behind.n >= lanes_at_once THEN coalesce(behind.lane, '')
                END AS behind
        FROM (SELECT count(lane) AS n, max(lane) AS lane FROM ahead) AS ahead,
            (SELECT count(lane) AS n, max(lane) AS lane FROM behind) AS behind
    ),
    walked AS (  -- all lanes to look at, no lane between the first and the last left out
        SELECT lane, 1 AS part FROM ahead
        UNION ALL SELECT lane, 2 FROM behind
        UNION ALL SELECT DISTINCT (
            SELECT lane FROM runyard.invocations WHERE id = wanted AND function = fn.name), 3
        FROM unnest(just) AS wanted
    ),
    lanes AS (  -- each with its position, its keys, how many they are, and if the index has it
        SELECT lane, row_number() OVER (ORDER BY part, lane) AS position,
            string_to_array(rtrim(lane, chr(30)), chr(31)) AS keys,
            right(lane, 1) = chr(30) AS begun, count(*) OVER () AS among, indexed
        FROM (
            SELECT lane, part, bool_or(indexed) AS indexed FROM (
                SELECT lane, part, true AS indexed FROM walked
                UNION ALL SELECT lane, 1, false FROM arrived, reach
                    WHERE lane > fn.last_lane AND (reach.ahead IS NULL OR lane <= reach.ahead)
                UNION ALL SELECT lane, 2, false FROM arrived, reach
                    WHERE lane <= fn.last_lane AND reach.ahead IS NULL
                        AND (reach.behind IS NULL OR lane <= reach.behind)
            ) AS every GROUP BY part, lane
        ) AS listed
        WHERE lane IS NOT NULL AND (just IS NOT NULL OR right(lane, 2) <> chr(30) || chr(30))
    ),
    held AS (  -- what open batches hold of each concurrency limit
        SELECT slot.scope, slot.key, sum(slot.n) AS n
        FROM runyard.batches
        CROSS JOIN LATERAL jsonb_to_recordset(batches.slots)
            AS slot (scope text, key text, n integer)
        WHERE batches.status IN ('claimed', 'running') AND batches.slots IS NOT NULL
        GROUP BY 1, 2
    ),
    clocks AS MATERIALIZED (  -- the clock of the throttle for each lane
        SELECT lane, key, coalesce((
            SELECT state.until FROM runyard.flow_control_state AS state
            WHERE state.id = 'throttle' || chr(31) || fn.name || chr(31) || keyed.key
        ), '-infinity') AS clock
        FROM (
            SELECT lane, coalesce(keys[throttle_key], '') AS key FROM lanes
            WHERE throttling AND NOT begun
        ) AS keyed
    ),
    limits AS (  -- every limit that applies to a lane, with what is free of it
        SELECT lanes.lane, control.scope, coalesce(lanes.keys[control.key], '') AS key,
            control."limit" - coalesce(held.n, 0) AS free
        FROM lanes
        CROSS JOIN jsonb_to_recordset(fn.flow->'concurrency')
            AS control (scope text, "limit" integer, key integer)
        LEFT JOIN held
            ON held.scope = control.scope AND held.key = coalesce(lanes.keys[control.key], '')
        WHERE NOT (
            control.scope = fn.name || ' singleton'
            AND lanes.keys[control.key] IS NOT DISTINCT FROM runyard.no_key_v1())
        UNION ALL
        SELECT lane, 'throttle', key, runyard.throttle_places_v1(now, clock, burst, seconds)
        FROM clocks
    ),
    open AS (  -- the lanes with something to claim; if batching, the first that is full or due
        SELECT lanes.lane, lanes.position, lanes.indexed, gathers, CASE
            WHEN gathers THEN most ELSE least(
                room.free, most, CASE WHEN lanes.among <= 3 OR batching THEN most
                    ELSE 1 + 5 * most / (4 * lanes.among) END) END AS share
        FROM lanes
        LEFT JOIN (
            SELECT lane, min(free) AS free FROM limits GROUP BY lane
        ) AS room USING (lane)
        -- groups, and events that are run alone, are invocations as of any other function
        CROSS JOIN LATERAL (SELECT batching AND NOT (
            together AND (lanes.begun OR coalesce(lanes.keys[alone] = 'true', false))
        ) AS gathers) AS kind
        WHERE coalesce(room.free, 1) > 0 AND CASE
            WHEN NOT batching OR just IS NOT NULL THEN true
            ELSE (
                SELECT due_at <= now FROM runyard.invocations
                WHERE function = fn.name AND lane = lanes.lane
                ORDER BY priority DESC, due_at, id LIMIT 1
            ) OR EXISTS (
                SELECT FROM runyard.invocations
                WHERE function = fn.name AND lane = lanes.lane
                ORDER BY priority DESC, due_at, id OFFSET most - 1 LIMIT 1) END
        ORDER BY position LIMIT CASE WHEN batching THEN 1 END
    ),
    firsts AS (  -- the first invocations of each lane: more of each, the fewer lanes there are
        SELECT open.lane, open.position, open.share, open.gathers, first.*
        FROM open CROSS JOIN LATERAL (
            SELECT id, priority, due_at, crashes FROM runyard.invocations
            WHERE function = fn.name AND lane = open.lane AND generation = fn.generation
                AND CASE WHEN just IS NULL THEN crashes < 2 ELSE id = ANY (just) END
            ORDER BY priority DESC, due_at, id LIMIT open.share
        ) AS first
        WHERE open.indexed
        UNION ALL
        SELECT open.lane, open.position, open.share, open.gathers, id, priority, due_at, crashes
        FROM open JOIN arrived USING (lane)
        WHERE generation = fn.generation AND crashes < 2
    ),
    candidates AS (  -- the same in their order, and no more than the share of each lane
        SELECT * FROM (
            SELECT firsts.*, row_number() OVER (
                PARTITION BY lane ORDER BY priority DESC, due_at, id) AS turn
            FROM firsts
        ) AS ordered WHERE turn <= share
    ),
    placed AS (  -- in the order in which they are taken: priority, then round-robin
        SELECT candidates.*, row_number() OVER (ORDER BY priority DESC, turn, position) AS place
        FROM candidates
    ),
    shared AS (  -- limits that several lanes draw on; one lane's own limit is respected already
        SELECT limits.* FROM limits JOIN (
            SELECT scope, key FROM limits GROUP BY scope, key HAVING count(*) > 1
        ) AS drawn_on USING (scope, key)
    ),
    counted AS (  -- for each candidate its number among those that draw on the same shared limit
        SELECT placed.id, shared.free,
            row_number() OVER (PARTITION BY shared.scope, shared.key ORDER BY placed.place) AS n
        FROM placed JOIN shared USING (lane)
    ),
    fitting AS (  -- the candidates within all limits, as many as a batch may have
        SELECT * FROM placed
        WHERE batching OR id NOT IN (SELECT id FROM counted WHERE n > free)
        ORDER BY place LIMIT most
    ),
    chosen AS (  -- suspects never share a run with others
        SELECT * FROM fitting WHERE crashes < 2
        UNION ALL
        SELECT * FROM fitting
        WHERE crashes >= 2 AND NOT EXISTS (SELECT FROM fitting WHERE crashes < 2)
    ),
    taken AS (  -- the claim itself
        UPDATE runyard.invocations
        SET status = 'claimed', batch_id = take_from_lanes_v1.batch, lane = NULL, admitted = true
        WHERE id = ANY (ARRAY(SELECT id FROM chosen)) AND status <> 'cancelled'
        RETURNING invocations.id, invocations.event_id, invocations.run_id
    ),
    queued AS (  -- what has been admitted and not chosen goes to its lane
        UPDATE runyard.invocations
        SET admitted = true, lane = array_to_string(keys[1:lane_keys], chr(31))
        WHERE id = ANY (ARRAY(SELECT unnest(fresh) EXCEPT SELECT id FROM chosen))
            AND status = 'queued'
    ),
    used AS (  -- how much of each limit it uses; a batch counts as one
        SELECT limits.scope, limits.key,
            CASE WHEN bool_or(chosen.gathers) THEN 1 ELSE count(*) END AS n
        FROM chosen JOIN limits USING (lane) GROUP BY 1, 2
    ),
    throttled AS (  -- the clocks of throttles move on by that many intervals
        INSERT INTO runyard.flow_control_state AS state (function, kind, key, until)
        SELECT fn.name, 'throttle', used.key, now + used.n * pace FROM used
        WHERE scope = 'throttle'
        ON CONFLICT (id) DO UPDATE SET until =
            greatest(state.until, now) + (excluded.until - now)
    ),
    created AS (  -- the batch, with the slots that it holds of concurrency limits
        INSERT INTO runyard.batches (id, function, invocations, slots)
        SELECT take_from_lanes_v1.batch, fn.name, array_agg(id), (
            SELECT jsonb_agg(jsonb_build_object('scope', scope, 'key', key, 'n', n))
            FROM used WHERE scope <> 'throttle')
        FROM taken HAVING count(*) > 0
    )
    SELECT count(*), min(taken.event_id),
        CASE WHEN min(taken.run_id) = max(taken.run_id) THEN min(taken.run_id) END,
        coalesce(
            (SELECT lane FROM chosen ORDER BY position DESC LIMIT 1),
            CASE WHEN (SELECT count(*) FROM lanes) >= lanes_at_once
                THEN (SELECT lane FROM lanes ORDER BY position DESC LIMIT 1) END),
        (SELECT count(*) FROM lanes)
    INTO size, event_id, previous_run, served_lane, looked_at FROM taken;
    more := size = 0 AND just IS NULL AND looked_at >= lanes_at_once;
    IF served_lane IS NOT NULL AND served_lane <> fn.last_lane AND just IS NULL THEN
        UPDATE runyard.functions SET last_lane = served_lane WHERE functions.name = fn.name;
    END IF;
END $$;

-- Makes one invocation of the events that a claim has gathered, for a function that takes them
-- together: the first of them leads the others, which leave the batch. Groups that were made
-- before, and events that are run alone, stay as they are. `size` is NULL if there is nothing to
-- group.
-- (by batches_pkey, invocations_pkey)
CREATE FUNCTION runyard.group_v1(
    fn runyard.functions, batch text, OUT size integer, OUT event_id text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    alone CONSTANT integer := (fn.flow->'batch'->>'alone')::integer;
    ids bigint[];
BEGIN
    SELECT array_agg(id ORDER BY id), (array_agg(invocations.event_id ORDER BY id))[1]
    INTO ids, event_id
    FROM runyard.invocations
    WHERE id = ANY (ARRAY(
            SELECT unnest(invocations) FROM runyard.batches WHERE batches.id = group_v1.batch))
        AND leader_id IS NULL AND started_at IS NULL AND keys[alone] IS DISTINCT FROM 'true';
    IF ids IS NULL THEN
        RETURN;
    END IF;
    UPDATE runyard.invocations
    SET leader_id = ids[1],
        status = CASE WHEN id = ids[1] THEN status ELSE 'grouped' END,
        batch_id = CASE WHEN id = ids[1] THEN batch_id END,
        -- a full batch need not wait for its timeout when it comes back
        due_at = CASE WHEN id = ids[1] THEN least(due_at, runyard.now_v1()) ELSE due_at END
    WHERE id = ANY (ids);
    UPDATE runyard.batches SET invocations = ids[1:1] WHERE batches.id = group_v1.batch;
    size := 1;
END $$;

-- What a batch still holds of each concurrency limit when these of its invocations leave it; NULL
-- for nothing. Events that were gathered count as one, and hold it to the end, unless they are a
-- group; so do invocations whose function has had other keys since they were claimed.
-- (by functions_pkey, invocations_pkey)
CREATE FUNCTION runyard.slots_without_v1(fn text, slots jsonb, leaving bigint[]) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(jsonb_build_object(
        'scope', slot.scope, 'key', slot.key, 'n', slot.n - coalesce(freed.n, 0)))
    FROM jsonb_to_recordset(slots) AS slot (scope text, key text, n integer)
    LEFT JOIN (
        SELECT control.scope, coalesce(invocations.keys[control.key], '') AS key,
            count(*)::integer AS n
        FROM runyard.functions
        CROSS JOIN jsonb_to_recordset(functions.flow->'concurrency')
            AS control (scope text, key integer)
        JOIN runyard.invocations ON invocations.id = ANY (leaving)
            AND invocations.generation = functions.generation
        WHERE functions.name = fn
            AND (NOT functions.flow ? 'batch' OR functions.flow->'batch' ? 'together')
        GROUP BY 1, 2
    ) AS freed USING (scope, key)
    WHERE slot.n > coalesce(freed.n, 0)
$$;

-- Claims due invocations of a function with lanes: by priority, then round-robin from lane to lane,
-- within every limit. `just` restricts the claim to these invocations, which are taken even if the
-- function is paused. Suspects (crashes >= 2) are only taken this way. Returns a row, with size 0
-- if nothing can be claimed. A call looks at a bounded number of lanes, starting after the one that
-- was served last; `more` says that nothing could be claimed in those, and others are left.
-- (by functions_pkey, and as rekey_v1, admit_v1, promote_v1, take_from_lanes_v1, group_v1)
CREATE FUNCTION runyard.claim_from_lanes_v1(
    name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    fn    runyard.functions;
    fresh bigint[];
BEGIN
    size := 0;
    more := false;
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = claim_from_lanes_v1.name;
    IF NOT FOUND OR (fn.paused_at IS NOT NULL AND just IS NULL) THEN
        RETURN;
    END IF;
    -- One claim of the function at a time, and one over each shared scope.
    PERFORM pg_advisory_xact_lock(8290, hashtext(scope)) FROM (
        SELECT DISTINCT scope FROM (
            SELECT 'function ' || fn.name AS scope
            UNION ALL SELECT c->>'scope' FROM jsonb_array_elements(fn.flow->'concurrency') AS c
        ) AS scopes ORDER BY scope
    ) AS ordered;
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = claim_from_lanes_v1.name;
    IF runyard.has_stale_keys_v1(fn) THEN
        -- Nothing is claimed with stale keys: if more are left, they come first, in the next call.
        IF runyard.rekey_v1(fn.name, 5000) = 5000 THEN
            more := true;
            RETURN;
        END IF;
        SELECT * INTO fn FROM runyard.functions WHERE functions.name = claim_from_lanes_v1.name;
    END IF;
    IF fn.needs_admission THEN
        fresh := runyard.admit_v1(fn, 500);
        -- What a later rule decides about, or an index chooses from, has to be written first.
        IF just IS NOT NULL OR fn.flow ?| ARRAY['singleton', 'debounce', 'batch'] THEN
            PERFORM runyard.enqueue_v1(fn, fresh);
            fresh := NULL;
        END IF;
    END IF;
    PERFORM runyard.promote_v1(fn, 1000);
    SELECT taken.* INTO size, event_id, previous_run, more
    FROM runyard.take_from_lanes_v1(fn, batch, most, just, fresh) AS taken;
    IF size > 0 AND fn.flow->'batch' ? 'together' THEN
        SELECT coalesce(made.size, claim_from_lanes_v1.size),
            coalesce(made.event_id, claim_from_lanes_v1.event_id)
        INTO size, event_id FROM runyard.group_v1(fn, batch) AS made;
    END IF;
END $$;

-- Claims for a function with lanes, unless it is blocked (held_until_v1). Suspects come first, if
-- none of them is running, in the order and number described at suspects_v1; if limits block those
-- whose turn it is, the next ones. `alone` says that the claim holds suspects.
-- (by invocations_suspects, invocations_crashing, and as claim_from_lanes_v1)
CREATE FUNCTION runyard.claim_v1(
    name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean,
    OUT alone boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    suspects record;
BEGIN
    size := 0;
    more := false;
    alone := false;
    IF just IS NULL THEN
        IF runyard.held_until_v1(name) IS NOT NULL THEN
            RETURN;
        END IF;
        FOR suspects IN
            SELECT array_agg(id ORDER BY due_at, id) AS ids, CASE turn
                WHEN 0 THEN least(most, (count(*)::integer + 1) / 2)
                WHEN 1 THEN ceil(most / (1.0 + min(culprits)))::integer
                ELSE 1 END AS most
            FROM (
                SELECT next.*, count(*) FILTER (WHERE turn = 2) OVER () AS culprits FROM (
                    SELECT id, due_at, CASE suspect
                        WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END AS turn
                    FROM runyard.invocations
                    WHERE function = claim_v1.name AND crashes >= 2
                        AND status IN ('queued', 'sleeping', 'waiting')
                        AND due_at <= runyard.now_v1()
                        AND NOT EXISTS (
                            SELECT FROM runyard.invocations AS others
                            WHERE others.function = claim_v1.name AND others.crashes >= 2
                                AND others.status IN ('claimed', 'running'))
                    ORDER BY CASE suspect
                        WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END,
                        invocations.due_at, id
                    LIMIT 5000
                ) AS next
            ) AS counted
            GROUP BY turn ORDER BY turn
        LOOP
            SELECT c.size, c.event_id, c.previous_run INTO size, event_id, previous_run
            FROM runyard.claim_from_lanes_v1(name, batch, suspects.most, suspects.ids) AS c;
            alone := size > 0;
            EXIT WHEN alone;
        END LOOP;
    END IF;
    IF NOT alone THEN
        SELECT c.size, c.event_id, c.previous_run, c.more INTO size, event_id, previous_run, more
        FROM runyard.claim_from_lanes_v1(name, batch, most, just) AS c;
    END IF;
    IF just IS NOT NULL THEN  -- for a run that exists already
        UPDATE runyard.batches SET launched_at = clock_timestamp() WHERE id = batch;
    END IF;
END $$;

-- Seconds until a function with lanes may have something to claim: an arrival, something that
-- becomes due, a batch whose timeout ends, the next place of a throttle; at once or soon if keys
-- are stale. NULL while it is paused, and if only another event or the end of a run can change
-- that.
-- (by invocations_arrived, invocations_delayed, invocations_lane, flow_control_state_clock)
CREATE FUNCTION runyard.next_due_in_lanes_v1(name text) RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM least(
        CASE WHEN runyard.has_stale_keys_v1(fn)
            THEN runyard.now_v1() + interval '0.5 seconds' END,
        (SELECT due_at FROM runyard.invocations
         WHERE function = fn.name AND NOT admitted AND status = 'queued'
         ORDER BY due_at LIMIT 1),
        (SELECT due_at FROM runyard.invocations
         WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting')
            AND keys IS NOT NULL AND lane IS NULL AND admitted
         ORDER BY due_at LIMIT 1),
        CASE WHEN fn.flow ? 'batch' THEN (
            SELECT min(due_at) FROM (
                SELECT due_at FROM runyard.invocations
                WHERE function = fn.name AND lane IS NOT NULL LIMIT 5000
            ) AS waiting WHERE due_at > runyard.now_v1()) END,
        CASE WHEN fn.flow ? 'throttle' THEN (
            SELECT state.clock - ((fn.flow->'throttle'->>'burst')::integer - 1)
                * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8)
            FROM runyard.flow_control_state AS state
            WHERE state.function = fn.name
                AND state.clock > runyard.now_v1() + ((fn.flow->'throttle'->>'burst')::integer - 1)
                    * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8)
                AND EXISTS (
                    SELECT FROM runyard.invocations
                    WHERE function = fn.name AND lane IS NOT NULL)
            ORDER BY state.clock LIMIT 1) END
    ) - runyard.now_v1())::float8
    FROM runyard.functions AS fn
    WHERE fn.name = next_due_in_lanes_v1.name AND fn.paused_at IS NULL
$$;

-- As `next_due_in_lanes_v1` unless the function is blocked; then until it no longer is, if that
-- time is known. (as held_until_v1 and next_due_in_lanes_v1)
CREATE FUNCTION runyard.next_due_v1(name text) RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN held.until IS NULL THEN runyard.next_due_in_lanes_v1(name)
        WHEN isfinite(held.until) THEN extract(epoch FROM held.until - runyard.now_v1())::float8
        END
    FROM (SELECT runyard.held_until_v1(name) AS until) AS held
$$;
