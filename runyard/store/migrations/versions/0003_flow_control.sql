-- Claims of functions with flow control: first the gates (what is skipped, what is put off), then the lanes.
-- Everything happens under one lock a function and one a shared scope, and never in a sender's transaction.

-- Arrivals that came since the last claim pass the gates of their function, in the order in which they came.
-- A chunk spans less than every period of the gates, which is what makes each gate one set-based statement. (by invocations_arrived)
CREATE FUNCTION runyard.admit_v1(fn runyard.functions, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ids   bigint[];
    gate  jsonb;
BEGIN
    WITH due AS (
        SELECT id, due_at FROM runyard.invocations
        WHERE function = fn.name AND NOT admitted AND status = 'queued' AND due_at <= runyard.now()
        ORDER BY due_at, id LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id) INTO ids FROM due
    WHERE due_at < (SELECT min(due_at) FROM due) + make_interval(secs => (fn.flow->>'span')::float8);
    IF ids IS NULL THEN
        RETURN;
    END IF;
    FOR gate IN SELECT * FROM jsonb_array_elements(fn.flow->'limits') LOOP
        ids := runyard.limit_v1(fn.name, gate, ids);
    END LOOP;
    IF fn.flow ? 'debounce' THEN
        PERFORM runyard.debounce_v1(fn.name, fn.flow->'debounce', ids);
    END IF;
    UPDATE runyard.invocations SET admitted = true,
        lane = CASE WHEN due_at <= runyard.now() AND NOT fn.flow ? 'singleton' THEN array_to_string(keys[1:(fn.flow->>'lanes')::integer], chr(31)) END
    WHERE id = ANY (ids) AND status = 'queued';
END $$;

CREATE FUNCTION runyard.skip_v1(ids bigint[], reason text) RETURNS void LANGUAGE sql AS $$
    UPDATE runyard.invocations SET status = 'skipped', lane = NULL, admitted = true, finished_at = runyard.now(),
        error = jsonb_build_object('step', NULL, 'type', 'Skipped', 'message', reason, 'traceback', '')
    WHERE id = ANY (ids) AND status = 'queued'
$$;

-- At most `limit` of a key in any `period`; the rest is skipped. Gives the ids that pass.
-- With f(i) places that are free when arrival i comes (it only grows within a chunk), i + min(0, min over j <= i of f(j) - j) of the first i pass.
-- (by invocations_pkey, gates_pkey)
CREATE FUNCTION runyard.limit_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    period CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    most   CONSTANT integer := (rule->>'limit')::integer;
    passed bigint[];
BEGIN
    WITH arrived AS (
        SELECT id, due_at AS at, coalesce(keys[(rule->>'key')::integer], '') AS key FROM runyard.invocations WHERE id = ANY (ids)
    ),
    counted AS (
        SELECT arrived.*, row_number() OVER (PARTITION BY arrived.key ORDER BY arrived.at, arrived.id) AS i,
            most - (SELECT count(*) FROM unnest(gates.log) AS earlier WHERE earlier > arrived.at - period) AS free
        FROM arrived LEFT JOIN runyard.gates ON gates.id = concat_ws(chr(31), rule->>'gate', limit_v1.name, arrived.key)
    ),
    summed AS (
        SELECT *, i + least(0, min(free - i) OVER (PARTITION BY key ORDER BY i)) AS taken FROM counted
    ),
    judged AS (
        SELECT *, taken > coalesce(lag(taken) OVER (PARTITION BY key ORDER BY i), 0) AS passes FROM summed
    ),
    kept AS (
        INSERT INTO runyard.gates (function, gate, key, until, log)
        SELECT limit_v1.name, rule->>'gate', key, max(at) + period, array_agg(at ORDER BY at)
        FROM judged WHERE passes GROUP BY key
        ON CONFLICT (id) DO UPDATE SET until = greatest(gates.until, excluded.until), log = (
            SELECT array_agg(at ORDER BY at) FROM (
                SELECT at FROM unnest(gates.log || excluded.log) AS at WHERE at > excluded.until - 2 * period ORDER BY at DESC LIMIT most
            ) AS latest
        )
    )
    SELECT array_agg(id) FILTER (WHERE passes) INTO passed FROM judged;
    PERFORM runyard.skip_v1(array(SELECT unnest(ids) EXCEPT SELECT unnest(passed)), rule->>'says');
    RETURN passed;
END $$;

-- Of arrivals of a key that come within `period` of each other only the last is run, `period` after it, or `longest` after the first.
-- A series has one pending invocation; an arrival before that is due takes its place. (by invocations_pkey, gates_pkey)
CREATE FUNCTION runyard.debounce_v1(name text, rule jsonb, ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    period  CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    longest CONSTANT interval := make_interval(secs => (rule->>'longest')::float8);
    replaced bigint[];
BEGIN
    WITH arrived AS (
        SELECT id, due_at AS at, coalesce(keys[(rule->>'key')::integer], '') AS key FROM runyard.invocations WHERE id = ANY (ids)
    ),
    firsts AS (
        SELECT key, min(at) AS at FROM arrived GROUP BY key
    ),
    series AS (  -- the one under way, where the first arrival is in time for it
        SELECT firsts.key, pending.id AS pending, CASE WHEN pending.id IS NULL THEN firsts.at ELSE gates.log[1] END AS began
        FROM firsts
        LEFT JOIN runyard.gates ON gates.id = concat_ws(chr(31), 'debounce', debounce_v1.name, firsts.key)
        LEFT JOIN runyard.invocations AS pending
            ON pending.id = gates.invocation_id AND pending.status = 'queued' AND pending.started_at IS NULL AND firsts.at < pending.due_at
    ),
    grouped AS (  -- a second series begins where the first one has lasted for `longest`
        SELECT arrived.*, series.began, series.pending, (arrived.at >= series.began + longest) AS late FROM arrived JOIN series USING (key)
    ),
    ranked AS (
        SELECT grouped.*, row_number() OVER (PARTITION BY key, late ORDER BY at DESC, id DESC) AS from_last,
            CASE WHEN late THEN min(at) OVER (PARTITION BY key, late) ELSE began END AS start
        FROM grouped
    ),
    put_off AS (
        UPDATE runyard.invocations SET due_at = least(ranked.at + period, ranked.start + longest),
            expires_at = expires_at + (least(ranked.at + period, ranked.start + longest) - due_at)
        FROM ranked WHERE invocations.id = ranked.id AND ranked.from_last = 1
    ),
    kept AS (
        INSERT INTO runyard.gates (function, gate, key, until, log, invocation_id)
        SELECT DISTINCT ON (key) debounce_v1.name, 'debounce', key, ranked.start + longest, ARRAY[ranked.start], id
        FROM ranked WHERE from_last = 1 ORDER BY key, late DESC
        ON CONFLICT (id) DO UPDATE SET until = excluded.until, log = excluded.log, invocation_id = excluded.invocation_id
    )
    SELECT array_agg(id) INTO replaced FROM (
        SELECT id FROM ranked WHERE from_last > 1
        UNION SELECT pending FROM ranked WHERE NOT late AND pending IS NOT NULL
    ) AS earlier;
    PERFORM runyard.skip_v1(replaced, 'debounced: a later event took its place');
END $$;

-- One invocation of a key at a time: those that come while it lasts are skipped, or (mode cancel) the last of them takes its place.
-- Gives the ids that pass. (by invocations_pkey, gates_pkey)
CREATE FUNCTION runyard.singleton_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    newest   CONSTANT boolean := rule->>'mode' = 'cancel';
    passed   bigint[];
    replaced bigint[];
BEGIN
    WITH arrived AS (
        SELECT id, coalesce(keys[(rule->>'key')::integer], '') AS key,
            row_number() OVER (PARTITION BY keys[(rule->>'key')::integer] ORDER BY CASE WHEN newest THEN -id ELSE id END) AS place
        FROM runyard.invocations WHERE id = ANY (ids)
    ),
    judged AS (
        SELECT arrived.*, active.id AS active FROM arrived
        LEFT JOIN runyard.gates ON gates.id = concat_ws(chr(31), 'singleton', singleton_v1.name, arrived.key)
        LEFT JOIN runyard.invocations AS active ON active.id = gates.invocation_id AND active.id <> arrived.id
            AND active.status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') AND active.cancel_requested_at IS NULL
    ),
    passing AS (
        SELECT * FROM judged WHERE place = 1 AND (newest OR active IS NULL)
    ),
    kept AS (
        INSERT INTO runyard.gates (function, gate, key, until, invocation_id)
        SELECT singleton_v1.name, 'singleton', key, 'infinity', id FROM passing
        ON CONFLICT (id) DO UPDATE SET invocation_id = excluded.invocation_id
    )
    SELECT array_agg(id), array_agg(active) FILTER (WHERE active IS NOT NULL) INTO passed, replaced FROM passing;
    IF replaced IS NOT NULL THEN
        PERFORM runyard.cancel_v1(replaced, 'singleton: a later event took its place');
    END IF;
    PERFORM runyard.skip_v1(array(SELECT unnest(ids) EXCEPT SELECT unnest(passed)),
        CASE WHEN newest THEN 'singleton: a later event took its place' ELSE 'singleton: another invocation of the same key was under way' END);
    RETURN passed;
END $$;

-- What has become due joins its lane. What began before has a lane of its own beside it, for a throttle counts beginnings. (by invocations_delayed)
CREATE FUNCTION runyard.promote_v1(fn runyard.functions, most integer) RETURNS void LANGUAGE plpgsql AS $$
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
            lane = array_to_string(keys[1:(fn.flow->>'lanes')::integer], chr(31)) || CASE WHEN started_at IS NULL THEN '' ELSE chr(30) END
        WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting');
    END IF;
END $$;

-- How many may begin now under a throttle whose key has this theoretical arrival time: the generic cell rate algorithm (ITU-T I.371).
CREATE FUNCTION runyard.begins_v1(rule jsonb, arrival timestamptz) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT greatest(0, 1 + floor(
        (extract(epoch FROM runyard.now() - greatest(arrival, runyard.now())) + ((rule->>'burst')::integer - 1) * (rule->>'interval')::float8 + 1e-6)
        / (rule->>'interval')::float8))::integer
$$;

-- Claim due invocations of a function with lanes: by priority, then in turn from lane to lane, within every limit.
-- `just` restricts it to these (which are taken although the function is paused). Gives a row, of size 0 when nothing may go.
-- No row is locked before it is taken: no other claim of the function runs, and what is cancelled at this moment is not taken.
-- A call looks at a bounded number of lanes, from behind the one that was served last; `more` says that nothing could go in those, and others are left. (by invocations_lane, batches_open, gates_pkey)
CREATE FUNCTION runyard.claim_v1(name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    fn       runyard.functions;
    batching boolean;
    lanes_at_once CONSTANT integer := 150;
    last_lane text;
    looked_at integer;
BEGIN
    size := 0;
    more := false;
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = claim_v1.name;
    IF NOT FOUND OR (fn.paused_at IS NOT NULL AND just IS NULL) THEN
        RETURN;
    END IF;
    batching := fn.flow ? 'batch';
    PERFORM pg_advisory_xact_lock(8290, hashtext(scope)) FROM (
        SELECT DISTINCT scope FROM (
            SELECT 'function ' || fn.name AS scope UNION ALL SELECT c->>'scope' FROM jsonb_array_elements(fn.flow->'concurrency') AS c
        ) AS scopes ORDER BY scope
    ) AS ordered;
    IF fn.gated THEN
        PERFORM runyard.admit_v1(fn, 500);
    END IF;
    PERFORM runyard.promote_v1(fn, 1000);

    WITH RECURSIVE ahead AS (
        (SELECT lane, 1 AS n FROM runyard.invocations WHERE function = fn.name AND lane > fn.turn AND just IS NULL ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT invocations.lane FROM runyard.invocations WHERE function = fn.name AND invocations.lane > ahead.lane ORDER BY invocations.lane LIMIT 1), n + 1
        FROM ahead WHERE lane IS NOT NULL AND n < lanes_at_once
    ),
    behind AS (
        (SELECT lane, 1 + (SELECT count(*) FROM ahead)::integer AS n FROM runyard.invocations
         WHERE function = fn.name AND lane >= '' AND lane <= fn.turn AND just IS NULL ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT invocations.lane FROM runyard.invocations
                WHERE function = fn.name AND invocations.lane > behind.lane AND invocations.lane <= fn.turn ORDER BY invocations.lane LIMIT 1), n + 1
        FROM behind WHERE lane IS NOT NULL AND n < lanes_at_once
    ),
    lanes AS (
        SELECT lane, row_number() OVER (ORDER BY part, n) AS position, string_to_array(rtrim(lane, chr(30)), chr(31)) AS keys,
            right(lane, 1) = chr(30) AS begun, count(*) OVER () AS among
        FROM (
            SELECT lane, 1 AS part, n FROM ahead UNION ALL SELECT lane, 2, n FROM behind
            UNION ALL SELECT DISTINCT lane, 3, 1 FROM runyard.invocations WHERE id = ANY (just) AND function = fn.name
        ) AS walked WHERE lane IS NOT NULL
    ),
    held AS (
        SELECT slot.scope, slot.key, sum(slot.n) AS n
        FROM runyard.batches CROSS JOIN LATERAL jsonb_to_recordset(batches.slots) AS slot (scope text, key text, n integer)
        WHERE batches.status IN ('claimed', 'running') AND batches.slots IS NOT NULL GROUP BY 1, 2
    ),
    limits AS (  -- every limit that holds for a lane, with what it leaves free
        SELECT lanes.lane, control.scope, coalesce(lanes.keys[control.key], '') AS key, control."limit" - coalesce(held.n, 0) AS free
        FROM lanes CROSS JOIN jsonb_to_recordset(fn.flow->'concurrency') AS control (scope text, "limit" integer, key integer)
        LEFT JOIN held ON held.scope = control.scope AND held.key = coalesce(lanes.keys[control.key], '')
        UNION ALL
        SELECT lanes.lane, 'throttle', coalesce(lanes.keys[(fn.flow->'throttle'->>'key')::integer], ''),
            runyard.begins_v1(fn.flow->'throttle', coalesce(gates.until, '-infinity'))
        FROM lanes LEFT JOIN runyard.gates
            ON gates.id = concat_ws(chr(31), 'throttle', fn.name, coalesce(lanes.keys[(fn.flow->'throttle'->>'key')::integer], ''))
        WHERE fn.flow ? 'throttle' AND NOT lanes.begun
    ),
    open AS (
        SELECT lanes.lane, lanes.position, lanes.among, room.free FROM lanes
        LEFT JOIN (SELECT lane, min(free) AS free FROM limits GROUP BY lane) AS room USING (lane)
        WHERE coalesce(room.free, 1) > 0 AND CASE WHEN NOT batching OR just IS NOT NULL THEN true ELSE
            (SELECT due_at <= runyard.now() FROM runyard.invocations WHERE function = fn.name AND lane = lanes.lane ORDER BY priority DESC, due_at, id LIMIT 1)
            OR EXISTS (SELECT FROM runyard.invocations WHERE function = fn.name AND lane = lanes.lane ORDER BY priority DESC, due_at, id OFFSET most - 1 LIMIT 1) END
        ORDER BY position LIMIT CASE WHEN batching THEN 1 END
    ),
    candidates AS (
        SELECT open.lane, open.position, found.*, row_number() OVER (PARTITION BY open.lane ORDER BY found.priority DESC, found.due_at, found.id) AS turn
        FROM open CROSS JOIN LATERAL (
            SELECT id, priority, due_at, crashes FROM runyard.invocations
            WHERE function = fn.name AND lane = open.lane AND (just IS NULL OR id = ANY (just))
            ORDER BY priority DESC, due_at, id
            LIMIT CASE WHEN batching THEN most ELSE least(open.free, most, CASE WHEN open.among <= 3 THEN most ELSE 1 + 5 * most / (4 * open.among) END) END
        ) AS found
    ),
    placed AS (
        SELECT candidates.*, row_number() OVER (ORDER BY priority DESC, turn, position) AS place FROM candidates
    ),
    shared AS (  -- those that several lanes draw on; within a lane its own limit was kept already
        SELECT * FROM (SELECT limits.*, count(*) OVER (PARTITION BY scope, key) AS lanes FROM limits) AS found WHERE found.lanes > 1
    ),
    counted AS (
        SELECT placed.id, row_number() OVER (PARTITION BY shared.scope, shared.key ORDER BY placed.place) AS n, shared.free
        FROM placed JOIN shared USING (lane)
    ),
    fitting AS (
        SELECT * FROM placed WHERE batching OR id NOT IN (SELECT id FROM counted WHERE n > free) ORDER BY place LIMIT most
    ),
    chosen AS (  -- those that lost two workers come alone
        SELECT * FROM fitting WHERE crashes < 2
        UNION ALL
        (SELECT * FROM fitting WHERE crashes >= 2 AND NOT EXISTS (SELECT FROM fitting WHERE crashes < 2) LIMIT 1)
    ),
    taken AS (
        UPDATE runyard.invocations SET status = 'claimed', batch_id = claim_v1.batch, lane = NULL
        FROM chosen WHERE invocations.id = chosen.id AND invocations.status <> 'cancelled'
        RETURNING invocations.id, invocations.event_id, invocations.run_id
    ),
    used AS (
        SELECT limits.scope, limits.key, CASE WHEN batching THEN 1 ELSE count(*) END AS n FROM chosen JOIN limits USING (lane) GROUP BY 1, 2
    ),
    throttled AS (
        INSERT INTO runyard.gates AS gate (function, gate, key, until)
        SELECT fn.name, 'throttle', used.key, runyard.now() + used.n * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8)
        FROM used WHERE scope = 'throttle'
        ON CONFLICT (id) DO UPDATE SET until = greatest(gate.until, runyard.now()) + (excluded.until - runyard.now())
    ),
    made AS (
        INSERT INTO runyard.batches (id, function, invocations, slots)
        SELECT claim_v1.batch, fn.name, array_agg(id),
            (SELECT jsonb_agg(jsonb_build_object('scope', scope, 'key', key, 'n', n)) FROM used WHERE scope <> 'throttle')
        FROM taken HAVING count(*) > 0
    )
    SELECT count(*), min(taken.event_id), CASE WHEN min(taken.run_id) = max(taken.run_id) THEN min(taken.run_id) END,
        coalesce((SELECT lane FROM chosen ORDER BY position DESC LIMIT 1),
            CASE WHEN (SELECT count(*) FROM lanes) >= lanes_at_once THEN (SELECT lane FROM lanes ORDER BY position DESC LIMIT 1) END),
        (SELECT count(*) FROM lanes)
    INTO size, event_id, previous_run, last_lane, looked_at FROM taken;
    more := size = 0 AND just IS NULL AND looked_at >= lanes_at_once;
    IF last_lane IS NOT NULL AND last_lane <> fn.turn AND just IS NULL THEN
        UPDATE runyard.functions SET turn = last_lane WHERE functions.name = fn.name;
    END IF;
END $$;

-- Seconds until a laned function may have something to claim: an arrival, what becomes due, a batch that has waited, a throttle's next place.
-- NULL while it is paused, and when only another event or the end of a run can make something possible. (by invocations_arrived, invocations_delayed, invocations_lane, gates_until)
CREATE FUNCTION runyard.next_due_v1(name text) RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM least(
        (SELECT due_at FROM runyard.invocations WHERE function = fn.name AND NOT admitted AND status = 'queued' ORDER BY due_at LIMIT 1),
        (SELECT due_at FROM runyard.invocations
         WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL AND admitted ORDER BY due_at LIMIT 1),
        CASE WHEN fn.flow ? 'batch' THEN
            (SELECT min(due_at) FROM (SELECT due_at FROM runyard.invocations WHERE function = fn.name AND lane IS NOT NULL LIMIT 5000) AS waiting
             WHERE due_at > runyard.now()) END,
        CASE WHEN fn.flow ? 'throttle' THEN
            (SELECT gates.until - ((fn.flow->'throttle'->>'burst')::integer - 1) * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8)
             FROM runyard.gates WHERE gates.function = fn.name AND gate = 'throttle'
                AND gates.until > runyard.now() + ((fn.flow->'throttle'->>'burst')::integer - 1) * make_interval(secs => (fn.flow->'throttle'->>'interval')::float8)
                AND EXISTS (SELECT FROM runyard.invocations WHERE function = fn.name AND lane IS NOT NULL)
             ORDER BY gates.until LIMIT 1) END
    ) - runyard.now())::float8
    FROM runyard.functions AS fn WHERE fn.name = next_due_v1.name AND fn.paused_at IS NULL
$$;
