-- Which of many invocations takes its worker with it is searched in halves. Nothing of a user's
-- transaction locks a row that the engine needs. Step results have the order in which they were kept.

ALTER TABLE runyard.invocations ADD COLUMN suspect text CHECK (suspect IN ('searched', 'alone'));
COMMENT ON COLUMN runyard.invocations.suspect IS
    'What is known of one that lost two workers: it is among those one of which did it (searched), it '
    'was alone in the run that was lost (alone), or nothing (NULL).';
COMMENT ON COLUMN runyard.invocations.crashes IS
    'Workers that were lost under it since its last outcome. From the second on it is a suspect, and '
    'runs apart from the others.';
COMMENT ON COLUMN runyard.invocations.attempt IS
    'Attempts begun of the step that it is at, without those that ended with a lost worker while '
    'others were in the run.';
-- In their turn: those that are searched, those of which nothing is known, those that were alone.
CREATE INDEX invocations_suspects
    ON runyard.invocations (function, (CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END), due_at, id)
    WHERE crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting');
CREATE INDEX invocations_searched ON runyard.invocations (function)
    WHERE suspect = 'searched' AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting');

-- The suspects of a function without lanes that are to run next, locked; none while others of them run.
-- First those that are searched, for one of them lost its worker: one half; when that ends well, the rest
-- has the culprit and is halved in turn. Then those of which nothing is known, together, or fewer at a
-- time the more culprits were found; then the culprits, each alone.
-- (by invocations_suspects, invocations_searched, invocations_crashing)
CREATE FUNCTION runyard.suspects_v1(name text, most integer) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    RETURN QUERY
    WITH next AS (  -- whose turn it is
        SELECT CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END AS turn
        FROM runyard.invocations
        WHERE function = suspects_v1.name AND crashes >= 2
            AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND due_at <= runyard.now()
            AND NOT EXISTS (
                SELECT FROM runyard.invocations AS others
                WHERE others.function = suspects_v1.name AND others.crashes >= 2
                    AND others.status IN ('claimed', 'running'))
        ORDER BY CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END, due_at, id LIMIT 1
    )
    SELECT id FROM runyard.invocations
    WHERE function = suspects_v1.name AND crashes >= 2
        AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL AND due_at <= runyard.now()
        AND CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END = (SELECT turn FROM next)
    ORDER BY due_at, id LIMIT (
        SELECT CASE turn
            WHEN 0 THEN least(most, ((
                SELECT count(*) FROM runyard.invocations
                WHERE function = suspects_v1.name AND suspect = 'searched'
                    AND status IN ('queued', 'sleeping', 'waiting')
                    AND keys IS NULL AND due_at <= runyard.now()
                ) + 1) / 2)
            WHEN 1 THEN ceil(most / (1.0 + (
                SELECT count(*) FROM runyard.invocations
                WHERE function = suspects_v1.name AND crashes >= 2
                    AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
                    AND CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END = 2)))
            ELSE 1 END
        FROM next)
    FOR UPDATE SKIP LOCKED;
END $$;

-- As before; the suspects (crashes >= 2) are taken by their ids alone.
-- Claim due invocations of a function with lanes: by priority, then in turn from lane to lane, within every limit.
-- `just` restricts it to these (which are taken although the function is paused). Gives a row, of size 0 when nothing may go.
-- No row is locked before it is taken: no other claim of the function runs, and what is cancelled at this moment is not taken.
-- A call looks at a bounded number of lanes, from behind the one that was served last; `more` says that nothing could go in those, and others are left. (by invocations_lane, batches_open, gates_pkey)
CREATE OR REPLACE FUNCTION runyard.claim_v1(name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET jit = off AS $$
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
    -- Nothing is claimed by keys that are not the function's present ones: the rest of them comes first, at the next call.
    IF runyard.rekey_v2(fn.name, 5000) = 5000 THEN
        more := true;
        RETURN;
    END IF;
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = claim_v1.name;
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
        ) AS walked WHERE lane IS NOT NULL AND (just IS NOT NULL OR right(lane, 2) <> chr(30) || chr(30))
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
        WHERE NOT (control.scope = fn.name || ' singleton' AND lanes.keys[control.key] IS NOT DISTINCT FROM runyard.no_key_v1())
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
            WHERE function = fn.name AND lane = open.lane AND generation = fn.generation
                AND CASE WHEN just IS NULL THEN crashes < 2 ELSE id = ANY (just) END
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
    chosen AS (  -- suspects never share a run with others
        SELECT * FROM fitting WHERE crashes < 2
        UNION ALL
        SELECT * FROM fitting WHERE crashes >= 2 AND NOT EXISTS (SELECT FROM fitting WHERE crashes < 2)
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

-- As before, but first suspects, where none of them is under way, as suspects_v1 takes them;
-- where limits hold back those whose turn it is, the next ones. `alone` says that these are suspects.
-- (by invocations_suspects, invocations_crashing, and as claim_v1)
CREATE OR REPLACE FUNCTION runyard.claim_v2(name text, batch text, most integer, just bigint[] DEFAULT NULL,
    OUT size integer, OUT event_id text, OUT previous_run text, OUT more boolean, OUT alone boolean)
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET jit = off AS $$
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
                    SELECT id, due_at, CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END AS turn
                    FROM runyard.invocations
                    WHERE function = claim_v2.name AND crashes >= 2
                        AND status IN ('queued', 'sleeping', 'waiting') AND due_at <= runyard.now()
                        AND NOT EXISTS (
                            SELECT FROM runyard.invocations AS others
                            WHERE others.function = claim_v2.name AND others.crashes >= 2
                                AND others.status IN ('claimed', 'running'))
                    ORDER BY CASE suspect WHEN 'searched' THEN 0 WHEN 'alone' THEN 2 ELSE 1 END,
                        invocations.due_at, id
                    LIMIT 5000
                ) AS next
            ) AS counted
            GROUP BY turn ORDER BY turn
        LOOP
            SELECT c.size, c.event_id, c.previous_run INTO size, event_id, previous_run
            FROM runyard.claim_v1(name, batch, suspects.most, suspects.ids) AS c;
            alone := size > 0;
            EXIT WHEN alone;
        END LOOP;
    END IF;
    IF NOT alone THEN
        SELECT c.size, c.event_id, c.previous_run, c.more INTO size, event_id, previous_run, more
        FROM runyard.claim_v1(name, batch, most, just) AS c;
    END IF;
    IF just IS NOT NULL THEN  -- by a run that is there already
        UPDATE runyard.batches SET launched_at = clock_timestamp() WHERE id = batch;
    END IF;
END $$;

-- A lease lasts from the moment at which it is written, not from that at which its transaction began.
ALTER TABLE runyard.batches
    ALTER COLUMN claimed_at SET DEFAULT clock_timestamp(),
    ALTER COLUMN heartbeat_at SET DEFAULT clock_timestamp();
ALTER TABLE runyard.workers
    ALTER COLUMN started_at SET DEFAULT clock_timestamp(),
    ALTER COLUMN heartbeat_at SET DEFAULT clock_timestamp();

-- What SQL asks of invocations is done when its transaction commits: however long that stays open, it
-- locks nothing until then.
CREATE TABLE runyard.requests (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation bigint NOT NULL,
    action     text NOT NULL CHECK (action IN ('cancel', 'run now')),
    reason     text,
    put_off    boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE runyard.requests IS
    'Empty but for transactions under way: what they ask of invocations, until they commit.';
COMMENT ON COLUMN runyard.requests.put_off IS
    'It could not be done in the commit of its transaction, and is done by the next sweep.';

-- Do what this transaction has asked, at once (what others have asked is not to be seen), or what was
-- put off. Locks are taken in the engine's order: the one of the waits, then batches, then invocations.
-- (runyard.requests is as good as empty: scanned; as cancel_v1 and run_now_v1)
CREATE FUNCTION runyard.do_asked_v1(late boolean) RETURNS integer LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    asked bigint[];
    hurried bigint[];
    cancels record;
BEGIN
    SELECT array_agg(id) INTO asked FROM (
        SELECT id FROM runyard.requests WHERE put_off = late FOR UPDATE SKIP LOCKED) AS mine;
    SELECT array_agg(DISTINCT invocation) INTO hurried
    FROM runyard.requests WHERE id = ANY (asked) AND action = 'run now';
    IF hurried IS NOT NULL THEN
        PERFORM runyard.lock_waits_v1();
    END IF;
    FOR cancels IN
        SELECT reason, array_agg(DISTINCT invocation) AS ids FROM runyard.requests
        WHERE id = ANY (asked) AND action = 'cancel' GROUP BY reason ORDER BY min(id)
    LOOP
        PERFORM runyard.cancel_v1(cancels.ids, cancels.reason);
    END LOOP;
    IF hurried IS NOT NULL THEN
        PERFORM runyard.run_now_v1(hurried);
    END IF;
    DELETE FROM runyard.requests WHERE id = ANY (asked);
    RETURN coalesce(cardinality(asked), 0);
END $$;

-- In the commit of who has asked. That is not to fail because of the engine: what a transaction with a
-- snapshot of its own (REPEATABLE READ) may not change any more, or others have locked for longer than it
-- waits, is put off.
CREATE FUNCTION runyard.do_requests_v1() RETURNS trigger LANGUAGE plpgsql SET jit = off AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM runyard.requests WHERE id = NEW.id AND NOT put_off) THEN
        RETURN NULL;  -- done with an earlier one
    END IF;
    BEGIN
        PERFORM runyard.do_asked_v1(false);
    EXCEPTION WHEN serialization_failure OR deadlock_detected OR lock_not_available THEN
        UPDATE runyard.requests SET put_off = true WHERE NOT put_off;
    END;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER do_requests AFTER INSERT ON runyard.requests DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION runyard.do_requests_v1();

CREATE OR REPLACE FUNCTION runyard.cancel(invocation bigint, reason text DEFAULT 'cancelled by SQL')
RETURNS boolean LANGUAGE sql AS $$
    WITH asked AS (
        INSERT INTO runyard.requests (invocation, action, reason)
        SELECT id, 'cancel', cancel.reason FROM runyard.invocations
        WHERE id = cancel.invocation
            AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting') RETURNING id
    )
    SELECT EXISTS (SELECT FROM asked)
$$;
CREATE OR REPLACE FUNCTION runyard.run_now(invocation bigint) RETURNS boolean LANGUAGE sql AS $$
    WITH asked AS (
        INSERT INTO runyard.requests (invocation, action)
        SELECT id, 'run now' FROM runyard.invocations
        WHERE id = run_now.invocation AND due_at > runyard.now()
            AND (status = 'queued' OR (status IN ('sleeping', 'waiting') AND EXISTS (
                SELECT FROM runyard.waits
                WHERE invocation_id = invocations.id AND kind = 'sleep' AND resolved_at IS NULL)))
        RETURNING id
    )
    SELECT EXISTS (SELECT FROM asked)
$$;

-- The clocks of two workers may differ by more than a step takes.
CREATE SEQUENCE runyard.steps_number AS bigint;
ALTER TABLE runyard.steps ADD COLUMN number bigint;
ALTER TABLE runyard.steps ALTER COLUMN number SET DEFAULT nextval('runyard.steps_number');
ALTER SEQUENCE runyard.steps_number OWNED BY runyard.steps.number;
COMMENT ON COLUMN runyard.steps.number IS
    'The order in which results were kept; NULL for those from before it was written down: they come '
    'first, by finished_at.';

-- As before; copied steps keep their order.
-- The events of these invocations again, as new invocations that pass no gate a second time; with `keep` the steps that are done stay done.
-- A failure that is replayed is no dead letter any more. Gives the ids of the new ones. (by invocations_pkey, steps_pkey, functions_pkey)
CREATE OR REPLACE FUNCTION runyard.replay_v1(ids bigint[], keep boolean DEFAULT false) RETURNS SETOF bigint LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    made bigint[];
    woken text;
BEGIN
    WITH copies AS (
        INSERT INTO runyard.invocations (event_id, function, priority, keys, lane, generation, replay_of)
        SELECT event_id, function, invocations.priority, keys,
            CASE WHEN keys IS NOT NULL THEN array_to_string(keys[1:(functions.flow->>'lanes')::integer], chr(31)) END,
            invocations.generation, id
        FROM runyard.invocations JOIN runyard.functions ON functions.name = invocations.function
        WHERE id = ANY (ids) AND status IN ('succeeded', 'failed', 'cancelled', 'skipped') ORDER BY id
        RETURNING id, function, replay_of
    ),
    dismissed AS (
        UPDATE runyard.invocations SET dismissed_at = runyard.now()
        WHERE id = ANY (ids) AND status = 'failed' AND dismissed_at IS NULL AND id IN (SELECT replay_of FROM copies)
    ),
    kept AS (
        INSERT INTO runyard.steps (invocation_id, step, attempt, run_id, output, started_at, finished_at)
        SELECT copies.id, steps.step, steps.attempt, steps.run_id, steps.output, steps.started_at, steps.finished_at
        FROM copies JOIN runyard.steps ON steps.invocation_id = copies.replay_of AND steps.error IS NULL WHERE keep
        ORDER BY steps.number NULLS FIRST, steps.finished_at
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ',') INTO made, woken FROM copies;
    IF made IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT unnest(made);
END $$;
