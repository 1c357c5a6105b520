-- What holds through deploys: keys that are those of the present flow control, whoever sent an event, and by whatever code.

ALTER TABLE runyard.functions ADD COLUMN generation integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN runyard.functions.generation IS 'Goes up with every change of what makes the keys and lanes of its invocations.';
ALTER TABLE runyard.invocations ADD COLUMN generation integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN runyard.invocations.generation IS 'The generation of its function that its keys were made by: a sender whose transaction began before a deploy makes those of the former code.';
CREATE INDEX invocations_keyed ON runyard.invocations (function, generation) WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL;
ALTER TABLE runyard.waits ADD COLUMN own text, ADD COLUMN own_xid xid8;
COMMENT ON COLUMN runyard.waits.own IS 'The event of the invocation itself, where it has the awaited name: it is no answer, nor is what its transaction (own_xid) sent before it.';
COMMENT ON COLUMN runyard.invocations.since IS 'What was committed when its event was sent, or when the present part of it began: later events count for the waits that it comes to.';
-- What is open already is looked at once, for it may have been stranded.
UPDATE runyard.functions SET generation = 2;

-- Whoever changes it, in whatever order.
CREATE FUNCTION runyard.next_generation_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.generation := OLD.generation + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER next_generation BEFORE UPDATE OF key_paths, laned, gated, flow ON runyard.functions FOR EACH ROW
    WHEN ((OLD.key_paths, OLD.laned, OLD.gated, OLD.flow->'lanes', OLD.flow ? 'singleton')
        IS DISTINCT FROM (NEW.key_paths, NEW.laned, NEW.gated, NEW.flow->'lanes', NEW.flow ? 'singleton'))
    EXECUTE FUNCTION runyard.next_generation_v1();

-- Whether a function has invocations that wait with other keys than those that its flow control makes: of an earlier generation, or none
-- where it has lanes. (by invocations_keyed, invocations_due)
CREATE FUNCTION runyard.other_keys_v1(fn runyard.functions) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.invocations
        WHERE function = fn.name AND generation < fn.generation AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
    ) OR (fn.laned AND EXISTS (
        SELECT FROM runyard.invocations WHERE function = fn.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
    ))
$$;

-- Give those (so many at a time) the present keys, and tell how many they were. What another transaction has locked is left for the next time.
-- Those that are claimed or run come back with their old keys, and get the new ones then. (by invocations_keyed, invocations_due, events_pkey)
CREATE FUNCTION runyard.rekey_v2(name text, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    fn    runyard.functions;
    ids   bigint[];
BEGIN
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = rekey_v2.name;
    IF NOT FOUND OR NOT runyard.other_keys_v1(fn) THEN
        RETURN 0;
    END IF;
    WITH earlier AS (
        SELECT id FROM runyard.invocations
        WHERE function = fn.name AND generation < fn.generation AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL
        LIMIT most FOR UPDATE SKIP LOCKED
    ),
    without AS (
        SELECT id FROM runyard.invocations
        WHERE fn.laned AND function = fn.name AND status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL
        LIMIT most FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(id) INTO ids FROM (SELECT id FROM earlier UNION ALL SELECT id FROM without LIMIT most) AS found;
    UPDATE runyard.invocations SET keys = found.keys, generation = fn.generation, admitted = invocations.admitted OR NOT fn.gated,
        lane = CASE WHEN fn.laned AND status = 'queued' AND due_at <= runyard.now() AND (invocations.admitted OR NOT fn.gated)
                AND (started_at IS NOT NULL OR replay_of IS NOT NULL OR NOT fn.flow ? 'singleton')
            THEN array_to_string(found.keys[1:(fn.flow->>'lanes')::integer], chr(31)) || CASE WHEN started_at IS NULL THEN '' ELSE chr(30) END END
    FROM runyard.events, LATERAL (
        SELECT CASE WHEN fn.laned THEN runyard.keys_v1(
            runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts), fn.key_paths) END AS keys
    ) AS found
    WHERE invocations.id = ANY (ids) AND events.id = invocations.event_id;
    RETURN coalesce(cardinality(ids), 0);
END $$;

-- The code before this one calls it when it has changed a function: the claims see to it.
CREATE OR REPLACE FUNCTION runyard.rekey_v1(name text) RETURNS void LANGUAGE sql AS $$
    SELECT runyard.rekey_v2(name, 5000)
$$;

-- What stands among the keys for one that its event does not have, null included: no value is equal to it. What would skip an event or merge it with
-- others passes it; what only makes it wait takes all those without the key for one group of its own.
CREATE FUNCTION runyard.no_key_v1() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT chr(29) $$;
-- What no event's value is equal to: for waits that nothing can fit.
CREATE FUNCTION runyard.no_value_v1() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT chr(30) $$;

CREATE OR REPLACE FUNCTION runyard.keys_v1(document jsonb, paths jsonb) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(coalesce(
        runyard.short_v1(translate(document #>> ARRAY(SELECT jsonb_array_elements_text(path)), chr(29), '')), runyard.no_key_v1()) ORDER BY position), '{}')
    FROM jsonb_array_elements(paths) WITH ORDINALITY AS listed (path, position)
$$;

-- Whether an event has a value at each of these paths; null is none.
CREATE FUNCTION runyard.has_all_v1(document jsonb, paths jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM jsonb_array_elements(paths) AS path WHERE coalesce(document #> ARRAY(SELECT jsonb_array_elements_text(path)), 'null') = 'null'
    )
$$;

-- Those of these invocations that have a value at a place among their keys; all where a rule has no key. (by invocations_pkey)
CREATE FUNCTION runyard.keyed_v1(ids bigint[], place integer) RETURNS bigint[] LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN place IS NULL THEN ids
        ELSE array(SELECT id FROM runyard.invocations WHERE id = ANY (ids) AND keys[place] IS DISTINCT FROM runyard.no_key_v1()) END
$$;

-- As before; those without the key pass.
-- At most `limit` of a key in any `period`; the rest is skipped. Gives the ids that pass.
-- With f(i) places that are free when arrival i comes (it only grows within a chunk), i + min(0, min over j <= i of f(j) - j) of the first i pass.
-- (by invocations_pkey, gates_pkey)
CREATE OR REPLACE FUNCTION runyard.limit_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    period CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    most   CONSTANT integer := (rule->>'limit')::integer;
    passed bigint[];
    keyed  CONSTANT bigint[] := runyard.keyed_v1(ids, (rule->>'key')::integer);
BEGIN
    WITH arrived AS (
        SELECT id, due_at AS at, coalesce(keys[(rule->>'key')::integer], '') AS key FROM runyard.invocations WHERE id = ANY (keyed)
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
    ids := passed || array(SELECT unnest(ids) EXCEPT SELECT unnest(keyed));
    PERFORM runyard.skip_v1(array(SELECT unnest(keyed) EXCEPT SELECT unnest(ids)), rule->>'says');
    RETURN ids;
END $$;

-- As before; those without the key are not put off.
-- Of arrivals of a key that come within `period` of each other only the last is run, `period` after it, or `longest` after the first.
-- A series has one pending invocation; an arrival before that is due takes its place. (by invocations_pkey, gates_pkey)
CREATE OR REPLACE FUNCTION runyard.debounce_v1(name text, rule jsonb, ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    period  CONSTANT interval := make_interval(secs => (rule->>'period')::float8);
    longest CONSTANT interval := make_interval(secs => (rule->>'longest')::float8);
    replaced bigint[];
BEGIN
    WITH arrived AS (
        SELECT id, due_at AS at, coalesce(keys[(rule->>'key')::integer], '') AS key FROM runyard.invocations
        WHERE id = ANY (runyard.keyed_v1(ids, (rule->>'key')::integer))
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

-- As before; those without the key pass.
-- One invocation of a key at a time: those that come while it lasts are skipped, or (mode cancel) the last of them takes its place.
-- Gives the ids that pass. (by invocations_pkey, gates_pkey)
CREATE OR REPLACE FUNCTION runyard.singleton_v1(name text, rule jsonb, ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    newest   CONSTANT boolean := rule->>'mode' = 'cancel';
    passed   bigint[];
    keyed    CONSTANT bigint[] := runyard.keyed_v1(ids, (rule->>'key')::integer);
    replaced bigint[];
BEGIN
    WITH arrived AS (
        SELECT id, coalesce(keys[(rule->>'key')::integer], '') AS key,
            row_number() OVER (PARTITION BY keys[(rule->>'key')::integer] ORDER BY CASE WHEN newest THEN -id ELSE id END) AS place
        FROM runyard.invocations WHERE id = ANY (keyed)
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
    PERFORM runyard.skip_v1(array(SELECT unnest(keyed) EXCEPT SELECT unnest(passed)),
        CASE WHEN newest THEN 'singleton: a later event took its place' ELSE 'singleton: another invocation of the same key was under way' END);
    RETURN passed || array(SELECT unnest(ids) EXCEPT SELECT unnest(keyed));
END $$;

-- As before; where the event has nothing to be compared with, nothing fits.
-- Register what invocations of a running batch wait for, each once; gives how each stands.
-- An element: invocation, kind, seconds or until (epoch seconds), event, shape, wanted (the values by which `shape` is compared), missing (true where one
-- of them is not there: nothing fits then), filter.
-- An event that came behind the invocation's own one, or (where it has waited before) since the run began that is to come to this wait, is found at once.
-- (by waits_invocation_id_step_key, events_name, events_pkey, invocations_pkey)
CREATE OR REPLACE FUNCTION runyard.wait_v1(step text, wanted jsonb) RETURNS TABLE (invocation_id bigint, done boolean, expired boolean, result jsonb, due_at timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM runyard.lock_waits_v1();
    UPDATE runyard.watermark SET snapshot = pg_current_snapshot()
    WHERE NOT EXISTS (SELECT FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL);
    INSERT INTO runyard.waits (invocation_id, step, kind, event, shape, value, filter, since, own, own_xid, expires_at)
    SELECT asked.invocation, wait_v1.step, asked.kind, asked.event, coalesce(asked.shape, '[]'),
        CASE WHEN asked.missing THEN runyard.no_value_v1() ELSE coalesce(runyard.short_v1((SELECT string_agg(value::text, ' ' ORDER BY position) FROM jsonb_array_elements(asked.wanted) WITH ORDINALITY AS w (value, position))), '') END,
        asked.filter::jsonpath, invocations.since, own.id, own.xid,
        coalesce(to_timestamp(asked.until), runyard.now() + make_interval(secs => asked.seconds))
    FROM jsonb_to_recordset(wanted)
        AS asked (invocation bigint, kind text, seconds float8, until float8, event text, shape jsonb, wanted jsonb, missing boolean, filter text)
    JOIN runyard.invocations ON invocations.id = asked.invocation
    LEFT JOIN runyard.events AS own ON own.id = invocations.event_id AND own.name = asked.event
    ON CONFLICT ON CONSTRAINT waits_invocation_id_step_key DO NOTHING;
    PERFORM runyard.match_v1(ARRAY(SELECT (element->>'invocation')::bigint FROM jsonb_array_elements(wanted) AS element), wait_v1.step);
    RETURN QUERY
        SELECT waits.invocation_id, waits.resolved_at IS NOT NULL OR waits.expires_at <= runyard.now(),
            waits.resolved_at IS NULL AND waits.expires_at <= runyard.now(), waits.result, waits.expires_at
        FROM runyard.waits
        WHERE waits.step = wait_v1.step AND waits.invocation_id = ANY (SELECT (element->>'invocation')::bigint FROM jsonb_array_elements(wanted) AS element);
END $$;

-- Every inserted event x every function that waits for it = one invocation; one NOTIFY per statement.
-- It only reads and inserts, and takes no lock that another sender could wait for: an event may be part of any transaction.
CREATE FUNCTION runyard.fan_out_v3() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    woken text;
BEGIN
    WITH wanted AS (
        SELECT arrived.*, functions.name AS function, functions.flow, functions.key_paths, functions.laned, functions.gated,
            functions.generation, functions.priority AS base, greatest(arrived.ts, runyard.now()) AS due
        FROM arrived
        JOIN runyard.functions ON functions.active AND CASE
            WHEN arrived.target IS NOT NULL THEN arrived.target = functions.name
            ELSE arrived.name = ANY (functions.exact)
                OR (functions.patterned AND runyard.triggered_v1(functions.name, arrived.id, arrived.name, arrived.data, arrived."user", arrived.v, arrived.ts)) END
    ),
    keyed AS (
        SELECT wanted.*, CASE WHEN laned
            THEN runyard.keys_v1(runyard.document_v1(id, name, data, "user", v, ts), key_paths) END AS keys
        FROM wanted
    ),
    made AS (
        INSERT INTO runyard.invocations (event_id, function, priority, due_at, keys, lane, admitted, generation, since, expires_at)
        SELECT id, function,
            CASE WHEN flow ? 'priority' THEN runyard.priority_v1(runyard.document_v1(id, name, data, "user", v, ts), flow->'priority') ELSE base END,
            due + CASE WHEN flow ? 'batch' THEN make_interval(secs => (flow->'batch'->>'wait')::float8) ELSE interval '0' END,
            keys,
            CASE WHEN laned AND NOT gated AND NOT flow ? 'singleton' AND due <= runyard.now() THEN array_to_string(keys[1:(flow->>'lanes')::integer], chr(31)) END,
            NOT gated, generation, CASE WHEN due <= runyard.now() THEN pg_current_snapshot() END,
            CASE WHEN flow ? 'start_within' THEN due + make_interval(secs => (flow->>'start_within')::float8) END
        FROM keyed
        RETURNING id, event_id, function
    ),
    cancelling AS (
        INSERT INTO runyard.waits (invocation_id, step, kind, event, shape, value, filter, since, expires_at)
        SELECT made.id, 'cancel-on-' || position, 'cancel', rule->>'event', rule->'shape',
            runyard.value_v1(runyard.document_v1(wanted.id, wanted.name, wanted.data, wanted."user", wanted.v, wanted.ts), rule->'own'),
            (rule->>'filter')::jsonpath, pg_current_snapshot(), wanted.due + make_interval(secs => (rule->>'within')::float8)
        FROM made JOIN wanted ON wanted.id = made.event_id AND wanted.function = made.function AND wanted.flow ? 'cancel_on'
        CROSS JOIN LATERAL jsonb_array_elements(wanted.flow->'cancel_on') WITH ORDINALITY AS rules (rule, position)
        WHERE runyard.has_all_v1(runyard.document_v1(wanted.id, wanted.name, wanted.data, wanted."user", wanted.v, wanted.ts), rule->'own')
    )
    SELECT string_agg(DISTINCT function, ',') INTO woken FROM made;
    IF woken IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    -- by waits_event
    ELSIF EXISTS (SELECT FROM (SELECT DISTINCT name FROM arrived) AS names JOIN runyard.waits ON waits.event = names.name AND waits.resolved_at IS NULL) THEN
        PERFORM runyard.wake_v1('');
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER fan_out ON runyard.events;
CREATE TRIGGER fan_out AFTER INSERT ON runyard.events
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v3();

-- As before, and first what has other keys gets those of the present flow control.
-- Claim due invocations of a function with lanes: by priority, then in turn from lane to lane, within every limit.
-- `just` restricts it to these (which are taken although the function is paused). Gives a row, of size 0 when nothing may go.
-- No row is locked before it is taken: no other claim of the function runs, and what is cancelled at this moment is not taken.
-- A call looks at a bounded number of lanes, from behind the one that was served last; `more` says that nothing could go in those, and others are left. (by invocations_lane, batches_open, gates_pkey)
CREATE OR REPLACE FUNCTION runyard.claim_v1(name text, batch text, most integer, just bigint[] DEFAULT NULL,
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
            WHERE function = fn.name AND lane = open.lane AND generation = fn.generation AND (just IS NULL OR id = ANY (just))
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

-- As before; what has other keys is looked at soon (at once where nobody else has locked it).
-- Seconds until a laned function may have something to claim: an arrival, what becomes due, a batch that has waited, a throttle's next place.
-- NULL while it is paused, and when only another event or the end of a run can make something possible. (by invocations_arrived, invocations_delayed, invocations_lane, gates_until)
CREATE OR REPLACE FUNCTION runyard.next_due_v1(name text) RETURNS float8 LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM least(
        CASE WHEN runyard.other_keys_v1(fn) THEN runyard.now() + interval '0.5 seconds' END,
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

-- As before, with the generation that the copied keys are of.
-- The events of these invocations again, as new invocations that pass no gate a second time; with `keep` the steps that are done stay done.
-- A failure that is replayed is no dead letter any more. Gives the ids of the new ones. (by invocations_pkey, steps_pkey, functions_pkey)
CREATE OR REPLACE FUNCTION runyard.replay_v1(ids bigint[], keep boolean DEFAULT false) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
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
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ',') INTO made, woken FROM copies;
    IF made IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT unnest(made);
END $$;

-- The events that came before waits were registered: the first for each wait of these invocations at a step, by the order of commits.
-- The value of an event is made once for each shape and looked up by equality; waits that ask for the same are looked at as one.
-- The join is by a hash: PostgreSQL cannot know how many events there are, and would go through all of them for each wait.
-- (by waits_invocation_id_step_key, events_name, events_pkey)
CREATE FUNCTION runyard.look_back_v1(of bigint[], at_step text) RETURNS TABLE (wait bigint, event text)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_nestloop = off SET jit = off AS $$
DECLARE
    span record;
BEGIN
    FOR span IN
        SELECT waits.event, waits.shape, min(pg_snapshot_xmin(waits.since)::text::bigint)::text::xid8 AS first
        FROM runyard.waits WHERE waits.invocation_id = ANY (of) AND waits.step = at_step AND waits.event IS NOT NULL AND waits.resolved_at IS NULL
        GROUP BY 1, 2
    LOOP
        RETURN QUERY
        WITH asked AS MATERIALIZED (
            SELECT waits.value, waits.filter::text::jsonpath AS filter, waits.since::text::pg_snapshot AS since, waits.xid, waits.own, waits.own_xid, waits.expires_at, array_agg(waits.id) AS ids
            FROM runyard.waits WHERE waits.invocation_id = ANY (of) AND waits.step = at_step AND waits.event = span.event AND waits.shape = span.shape
                AND waits.resolved_at IS NULL
            GROUP BY waits.value, waits.filter::text, waits.since::text, waits.xid, waits.own, waits.own_xid, waits.expires_at
        ),
        documents AS MATERIALIZED (
            SELECT events.id, events.xid, events.received_at,
                runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts) AS document
            FROM runyard.events WHERE events.name = span.event AND events.xid >= span.first
        ),
        arrived AS MATERIALIZED (
            SELECT documents.*, runyard.value_v1(document, span.shape) AS value FROM documents
        ),
        first AS (
            SELECT DISTINCT ON (asked.ids) asked.ids, arrived.id FROM asked JOIN arrived ON arrived.value = asked.value
            WHERE NOT pg_visible_in_snapshot(arrived.xid, asked.since) AND arrived.xid <> asked.xid AND arrived.received_at <= asked.expires_at
                AND NOT coalesce(arrived.xid = asked.own_xid AND arrived.id <= asked.own, false)
                AND runyard.passes_v1(arrived.document, asked.filter)
            ORDER BY asked.ids, arrived.xid, arrived.id
        )
        SELECT unnest(first.ids), first.id FROM first;
    END LOOP;
END $$;

-- As before: what events and waits are compared by is made once for each event. Never compiled (JIT): that takes longer than all of it.
-- Match events with waits, under the lock: of given invocations all events since each wait's own moment,
-- else (NULL) those that were committed since the last call. The first event that fits resolves a wait. Gives how many were resolved.
-- PostgreSQL cannot guess how few events a snapshot leaves, and would rather read them all: hence no sequential scans.
-- (by waits_event, events_name, waits_pkey, events_pkey, invocations_pkey)
CREATE OR REPLACE FUNCTION runyard.match_v1(of bigint[] DEFAULT NULL, at_step text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    before pg_snapshot;
    cancels bigint[];
    resumed bigint[];
    woken text;
BEGIN
    SELECT snapshot INTO before FROM runyard.watermark;
    WITH RECURSIVE names AS (
        (SELECT event FROM runyard.waits WHERE event IS NOT NULL AND resolved_at IS NULL AND of IS NULL ORDER BY event LIMIT 1)
        UNION ALL
        SELECT (SELECT waits.event FROM runyard.waits WHERE waits.event > names.event AND resolved_at IS NULL ORDER BY waits.event LIMIT 1)
        FROM names WHERE event IS NOT NULL
    ),
    shapes AS (
        SELECT DISTINCT names.event, found.shape FROM names CROSS JOIN LATERAL (
            WITH RECURSIVE each AS (
                (SELECT shape FROM runyard.waits WHERE waits.event = names.event AND resolved_at IS NULL ORDER BY shape LIMIT 1)
                UNION ALL
                SELECT (SELECT waits.shape FROM runyard.waits WHERE waits.event = names.event AND resolved_at IS NULL AND waits.shape > each.shape ORDER BY waits.shape LIMIT 1)
                FROM each WHERE shape IS NOT NULL
            ) SELECT shape FROM each WHERE shape IS NOT NULL
        ) AS found WHERE names.event IS NOT NULL
    ),
    documents AS MATERIALIZED (
        SELECT shapes.event, shapes.shape, events.id, events.xid, events.received_at,
            runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts) AS document
        FROM shapes JOIN runyard.events ON events.name = shapes.event
            AND events.xid >= pg_snapshot_xmin(before) AND NOT pg_visible_in_snapshot(events.xid, before)
    ),
    valued AS MATERIALIZED (
        SELECT documents.*, runyard.value_v1(document, shape) AS value FROM documents
    ),
    arrived AS MATERIALIZED (
        SELECT valued.*, row_number() OVER (PARTITION BY event, shape, value ORDER BY xid, id) AS place FROM valued
    ),
    foremost AS (  -- of many that hold the same, most waits take the first: the others are looked at for the rest alone
        SELECT waits.id, arrived.id AS event_id FROM arrived
        JOIN runyard.waits ON waits.event = arrived.event AND waits.shape = arrived.shape AND waits.value = arrived.value
            AND waits.resolved_at IS NULL AND NOT pg_visible_in_snapshot(arrived.xid, waits.since) AND arrived.xid <> waits.xid
            AND arrived.received_at <= waits.expires_at AND NOT coalesce(arrived.xid = waits.own_xid AND arrived.id <= waits.own, false)
            AND runyard.passes_v1(arrived.document, waits.filter)
        WHERE arrived.place = 1
    ),
    fitting AS (
        SELECT waits.id, arrived.xid, arrived.id AS event_id FROM arrived
        JOIN runyard.waits ON waits.event = arrived.event AND waits.shape = arrived.shape AND waits.value = arrived.value
            AND waits.resolved_at IS NULL AND NOT pg_visible_in_snapshot(arrived.xid, waits.since) AND arrived.xid <> waits.xid
            AND arrived.received_at <= waits.expires_at AND NOT coalesce(arrived.xid = waits.own_xid AND arrived.id <= waits.own, false)
            AND runyard.passes_v1(arrived.document, waits.filter)
        WHERE arrived.place > 1 AND waits.id NOT IN (SELECT foremost.id FROM foremost)
    ),
    first AS (
        (SELECT DISTINCT ON (id) id, event_id FROM fitting ORDER BY id, xid, event_id)
        UNION ALL SELECT id, event_id FROM foremost
        UNION ALL SELECT wait, event FROM runyard.look_back_v1(of, at_step) WHERE of IS NOT NULL
    ),
    resolved AS (
        UPDATE runyard.waits SET resolved_at = runyard.now(),
            result = runyard.document_v1(events.id, events.name, events.data, events."user", events.v, events.ts)
        FROM first JOIN runyard.events ON events.id = first.event_id WHERE waits.id = first.id AND waits.resolved_at IS NULL
        RETURNING waits.invocation_id, waits.kind
    ),
    seen AS (
        UPDATE runyard.watermark SET snapshot = pg_current_snapshot() WHERE of IS NULL
    )
    SELECT array_agg(invocation_id) FILTER (WHERE kind = 'cancel'), array_agg(invocation_id) FILTER (WHERE kind <> 'cancel') INTO cancels, resumed FROM resolved;
    IF resumed IS NOT NULL THEN
        WITH parked AS (
            SELECT id FROM runyard.invocations WHERE id = ANY (resumed) AND status IN ('sleeping', 'waiting') AND lane IS NULL ORDER BY id FOR UPDATE
        ),
        due AS (
            UPDATE runyard.invocations SET due_at = least(due_at, runyard.now()) FROM parked WHERE invocations.id = parked.id RETURNING function
        )
        SELECT string_agg(DISTINCT function, ',') INTO woken FROM due;
        IF woken IS NOT NULL THEN
            PERFORM runyard.wake_v1(woken);
        END IF;
    END IF;
    IF cancels IS NOT NULL THEN
        PERFORM runyard.cancel_v1(cancels, 'cancelled by an event');
    END IF;
    RETURN coalesce(cardinality(cancels), 0) + coalesce(cardinality(resumed), 0);
END $$;

-- Whose a function is: what another code location publishes, or an older version of the same one, is no word on it. And what came while it was away.
ALTER TABLE runyard.functions
    ADD COLUMN location text,
    ADD COLUMN away_since timestamptz,
    ADD COLUMN away pg_snapshot,
    ADD COLUMN back_at timestamptz,
    ADD COLUMN back pg_snapshot;
COMMENT ON COLUMN runyard.functions.location IS 'The code location that has it: a publication of this one alone can end it.';
COMMENT ON COLUMN runyard.functions.away_since IS 'When the code last had it no more; `away`: what had been sent by then.';
COMMENT ON COLUMN runyard.functions.back_at IS 'When it was there again, until all that was sent in between has been taken up; `back`: the transactions under way then.';

CREATE TABLE runyard.publications (
    location text NOT NULL,
    digest   text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (location, digest)
);
COMMENT ON TABLE runyard.publications IS 'Every version of a code location by the functions that it has, and when it first came: one that is not the newest ends no function.';

CREATE FUNCTION runyard.away_and_back_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.active THEN
        NEW.away_since := runyard.now();
        NEW.away := pg_current_snapshot();
        NEW.back_at := NULL;
        NEW.back := NULL;
    ELSIF NEW.away IS NOT NULL THEN
        NEW.back_at := runyard.now();
        NEW.back := pg_current_snapshot();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER away_and_back BEFORE UPDATE OF active ON runyard.functions FOR EACH ROW WHEN (OLD.active <> NEW.active) EXECUTE FUNCTION runyard.away_and_back_v1();

-- Events for one function, on their way through the same trigger as those that are sent.
CREATE TABLE runyard.missed (id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz, target text);
COMMENT ON TABLE runyard.missed IS 'Empty: what is inserted here is fanned out to its target, and deleted.';
CREATE TRIGGER fan_out AFTER INSERT ON runyard.missed
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION runyard.fan_out_v3();

-- Start a function for the events of its names that came while it was away, of the last 24 hours, as many as `most` events looked at from behind
-- `after` on; an event that has started it is left out. Gives the id of the last event looked at, none where there are no more.
-- One at a time does it for a function. (by events_received_at, invocations_event, events_pkey)
CREATE FUNCTION runyard.catch_up_v1(name text, after text, most integer) RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    fn runyard.functions;
    began timestamptz;
    last text;
BEGIN
    PERFORM pg_advisory_xact_lock(8290, hashtext('catch up ' || catch_up_v1.name));
    SELECT * INTO fn FROM runyard.functions WHERE functions.name = catch_up_v1.name AND active AND back IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- A transaction that began before the function went may have sent behind it.
    began := greatest(fn.away_since - interval '1 hour', fn.back_at - interval '24 hours');
    WITH looked_at AS (
        SELECT events.* FROM runyard.events
        WHERE (received_at, id) > (coalesce((SELECT received_at FROM runyard.events WHERE id = after), began), coalesce(after, ''))
        ORDER BY received_at, id LIMIT most
    ),
    missed AS (
        INSERT INTO runyard.missed (id, name, data, "user", v, ts, target)
        SELECT id, looked_at.name, data, "user", v, ts, fn.name FROM looked_at
        WHERE NOT pg_visible_in_snapshot(xid, fn.away) AND CASE WHEN target IS NOT NULL THEN target = fn.name
            ELSE looked_at.name = ANY (fn.exact) OR (fn.patterned AND runyard.triggered_v1(fn.name, id, looked_at.name, data, "user", v, ts)) END
            AND NOT EXISTS (SELECT FROM runyard.invocations WHERE invocations.event_id = looked_at.id AND invocations.function = fn.name)
    )
    SELECT CASE WHEN count(*) = most THEN max(id) FILTER (WHERE received_at = (SELECT max(received_at) FROM looked_at)) END INTO last FROM looked_at;
    DELETE FROM runyard.missed;
    -- Senders that saw it away may still be under way; when they are through, it has missed nothing.
    IF last IS NULL AND fn.back_at < runyard.now() - interval '1 minute' AND pg_snapshot_xmin(pg_current_snapshot()) >= pg_snapshot_xmax(fn.back) THEN
        UPDATE runyard.functions SET away_since = NULL, away = NULL, back_at = NULL, back = NULL WHERE functions.name = fn.name;
    END IF;
    RETURN last;
END $$;

-- The time to begin counts from the commit of the event, not from the beginning of the transaction that sent it: before the commit nobody could begin.
CREATE FUNCTION runyard.start_from_commit_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    late CONSTANT interval := clock_timestamp() - pg_catalog.now();
BEGIN
    IF late > interval '1 second' THEN
        UPDATE runyard.invocations
        SET expires_at = greatest(expires_at, runyard.now() + late + make_interval(secs => (functions.flow->>'start_within')::float8))
        FROM runyard.functions WHERE id = NEW.id AND functions.name = NEW.function AND status = 'queued';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER start_from_commit AFTER INSERT ON runyard.invocations DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.expires_at IS NOT NULL) EXECUTE FUNCTION runyard.start_from_commit_v1();

-- Whether the tables came from another cluster whose transactions have higher numbers: to what waits here, nothing new would ever be new. (by events_received_at)
CREATE FUNCTION runyard.from_another_cluster_v1() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM runyard.watermark WHERE pg_snapshot_xmax(snapshot) > pg_snapshot_xmax(pg_current_snapshot()))
        OR coalesce((SELECT xid > pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id_if_assigned()
            FROM runyard.events ORDER BY received_at DESC, id DESC LIMIT 1), false)
$$;

-- Match what came before the move by the old numbers, then begin anew with those of this cluster. Gives whether there was a need. (each table is scanned, once)
CREATE FUNCTION runyard.settle_in_v1() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    present pg_snapshot;
BEGIN
    PERFORM runyard.lock_waits_v1();
    IF NOT runyard.from_another_cluster_v1() THEN
        RETURN false;
    END IF;
    PERFORM runyard.match_v1();
    present := pg_current_snapshot();
    UPDATE runyard.events SET xid = '3' WHERE xid >= pg_snapshot_xmax(present) AND xid <> pg_current_xact_id();
    UPDATE runyard.progress SET xid = '3' WHERE xid >= pg_snapshot_xmax(present);
    UPDATE runyard.waits SET since = present, xid = '3' WHERE resolved_at IS NULL AND (pg_snapshot_xmax(since) > pg_snapshot_xmax(present) OR xid >= pg_snapshot_xmax(present));
    UPDATE runyard.invocations SET since = present WHERE pg_snapshot_xmax(since) > pg_snapshot_xmax(present);
    UPDATE runyard.functions SET away_since = NULL, away = NULL, back_at = NULL, back = NULL WHERE pg_snapshot_xmax(away) > pg_snapshot_xmax(present);
    UPDATE runyard.watermark SET snapshot = present;
    RETURN true;
END $$;

-- Compiling a statement (JIT, where the server has it) takes longer than any of these runs: PostgreSQL takes them for dear, for it cannot know how few rows they find.
DO $$
DECLARE
    name regprocedure;
BEGIN
    FOR name IN
        SELECT pg_proc.oid FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
        WHERE pronamespace = 'runyard'::regnamespace AND lanname = 'plpgsql' AND prosrc ~ 'runyard\.(invocations|waits|events)'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET jit = off', name);
    END LOOP;
END $$;
