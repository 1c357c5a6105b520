-- Events as JSON documents: the keys of flow control, filters, and the values that waits compare.

-- A key as it is stored: short enough for an index, without the characters that separate the keys
-- of a lane (30 and 31).
CREATE FUNCTION runyard.shorten_v1(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN length(value) > 200
            THEN left(translate(value, chr(30) || chr(31), ''), 150) || '~' || md5(value)
        ELSE translate(value, chr(30) || chr(31), '') END
$$;

-- An event as filters and paths see it.
CREATE FUNCTION runyard.document_v1(
    id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz)
RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'id', id, 'name', name, 'data', data, 'user', "user", 'v', v,
        'ts', floor(extract(epoch FROM ts) * 1000)::bigint)
$$;

-- Stands in for a key that the event does not have, or that is null; no value equals it. Rules that
-- would skip such an event or merge it with others let it pass; rules that only make it wait treat
-- all events without the key as one group.
CREATE FUNCTION runyard.no_key_v1() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT chr(29) $$;

-- A value that no event has: for waits that nothing can match.
CREATE FUNCTION runyard.no_value_v1() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT chr(30) $$;

-- A key that is no plain path: an expression (["cel", tree, text]), a path whose value false counts
-- as none (["unless false", path]), or whether a condition is not met (["unless met", tree]), which
-- an event that meets it does not have.
CREATE FUNCTION runyard.special_key_v1(document jsonb, key jsonb) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF key ->> 0 = 'cel' THEN
        RETURN runyard.cel_key_v1(key -> 1, jsonb_build_object('event', document));
    ELSIF key ->> 0 = 'unless met' THEN
        RETURN CASE WHEN NOT runyard.cel_met_v1(
            key -> 1, jsonb_build_object('event', document)) THEN 'true' END;
    END IF;
    RETURN nullif(
        document #> ARRAY(SELECT jsonb_array_elements_text(key -> 1)), 'false') #>> '{}';
END $$;

-- The keys of an event: its values at these paths ([["data", "tenant"], ...]), or what there is in
-- place of a path.
CREATE FUNCTION runyard.keys_v1(document jsonb, paths jsonb) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(coalesce(
        runyard.shorten_v1(translate(
            CASE WHEN jsonb_typeof(path -> 1) = 'array'
                THEN runyard.special_key_v1(document, path)
                ELSE document #>> ARRAY(SELECT jsonb_array_elements_text(path)) END,
            chr(29), '')),
        runyard.no_key_v1()) ORDER BY position), '{}')
    FROM jsonb_array_elements(paths) WITH ORDINALITY AS listed (path, position)
$$;

-- A value as one that is compared with others: with its type, and 1.0 as 1.
CREATE FUNCTION runyard.match_text_v1(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN jsonb_typeof(value) = 'number' THEN trim_scale((value #>> '{}')::numeric)::text
        ELSE coalesce(value::text, 'null') END
$$;

-- The values at these paths as one text: what a wait's `match_value` is compared with.
CREATE FUNCTION runyard.match_value_v1(document jsonb, match_paths jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(runyard.shorten_v1(string_agg(
        runyard.match_text_v1(document #> ARRAY(SELECT jsonb_array_elements_text(path))),
        ' ' ORDER BY position)), '')
    FROM jsonb_array_elements(match_paths) WITH ORDINALITY AS listed (path, position)
$$;

-- The same for the values themselves, in the order of the paths.
CREATE FUNCTION runyard.match_values_v1(sought jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(runyard.shorten_v1(
        string_agg(runyard.match_text_v1(value), ' ' ORDER BY position)), '')
    FROM jsonb_array_elements(sought) WITH ORDINALITY AS listed (value, position)
$$;

-- Whether an event has a value other than null at each of these paths.
CREATE FUNCTION runyard.has_all_paths_v1(document jsonb, paths jsonb) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM jsonb_array_elements(paths) AS path
        WHERE coalesce(
            document #> ARRAY(SELECT jsonb_array_elements_text(path)), 'null') = 'null'
    )
$$;

-- Whether an event passes a filter: its first item exists, and is neither false nor null.
CREATE FUNCTION runyard.filter_matches_v1(document jsonb, filter jsonpath) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT filter IS NULL OR coalesce(
        jsonb_path_query_first(document, filter, '{}', true) NOT IN ('false', 'null'), false)
$$;

-- Whether an event meets a trigger. Without a subquery, so that it becomes part of the query which
-- calls it: a call of its own for each event costs more than what is in it.
CREATE FUNCTION runyard.trigger_met_v1(
    event text, wildcard boolean, filter jsonpath, condition jsonb,
    id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN wildcard
            THEN trigger_met_v1.name LIKE event
                AND (trigger_met_v1.name NOT LIKE 'runyard/%' OR event LIKE 'runyard/%')
                AND (trigger_met_v1.name NOT LIKE 'inngest/%' OR event LIKE 'inngest/%')
            ELSE trigger_met_v1.name = event END
        AND (filter IS NULL OR runyard.filter_matches_v1(
            runyard.document_v1(id, trigger_met_v1.name, data, "user", v, ts), filter))
        AND (condition IS NULL OR runyard.cel_met_v1(
            condition,
            jsonb_build_object(
                'event', runyard.document_v1(id, trigger_met_v1.name, data, "user", v, ts))))
$$;

-- Whether a wildcard, filter or condition of a function matches an event. (by triggers_function)
CREATE FUNCTION runyard.triggered_v1(
    function text, id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.triggers
        WHERE triggers.function = triggered_v1.function
            AND runyard.trigger_met_v1(
                triggers.event, wildcard, filter, condition, id, triggered_v1.name, data, "user",
                v, ts)
    )
$$;

-- The priority that an expression over the event or a path into it gives, within its bounds; 0 if
-- there is no number.
CREATE FUNCTION runyard.priority_v1(document jsonb, rule jsonb) RETURNS smallint
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT least(
            greatest(round(number::numeric), (rule->>'min')::numeric),
            (rule->>'max')::numeric)::smallint
        FROM (
            SELECT CASE
                WHEN rule ? 'tree' THEN runyard.cel_value_v1(
                    rule->'tree', jsonb_build_object('event', document))
                ELSE jsonb_path_query_first(
                    document, (rule->>'path')::jsonpath, '{}', true) END AS number
        ) AS given
        WHERE jsonb_typeof(number) = 'number'
    ), 0)
$$;

-- A rule of cancel_on as it is for an event that it may cancel: with `match_value`, and its
-- condition with the values of that event. A pair is what a path in the cancelling event must be
-- equal to, an expression over the own one. Values that are null, lists and objects are left to the
-- condition: the index treats 1 and 1.0 inside of them as different, and null as no value. NULL if
-- nothing can meet the rule. `runyard.syntax.event_conditions` does the same for waits.
CREATE FUNCTION runyard.own_rule_v1(rule jsonb, document jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET jit = off AS $$
DECLARE
    scope CONSTANT jsonb := jsonb_build_object('event', document);
    paths jsonb := rule->'match_paths';
    sought jsonb := '[]';
    condition jsonb := nullif(rule->'condition', 'null');
    pair jsonb;
    value jsonb;
BEGIN
    IF NOT runyard.has_all_paths_v1(document, rule->'own_paths') THEN
        RETURN NULL;
    ELSIF NOT rule ? 'pairs' THEN
        RETURN rule || jsonb_build_object(
            'match_value', runyard.match_value_v1(document, rule->'own_paths'));
    END IF;
    SELECT coalesce(
        jsonb_agg(document #> ARRAY(SELECT jsonb_array_elements_text(path)) ORDER BY position),
        '[]')
    INTO sought
    FROM jsonb_array_elements(rule->'own_paths') WITH ORDINALITY AS listed (path, position);
    condition := runyard.cel_bound_v1(condition, scope);
    FOR pair IN SELECT each FROM jsonb_array_elements(rule->'pairs') AS pairs (each) LOOP
        value := runyard.cel_value_v1(pair->1, scope);
        IF value IS NULL THEN
            RETURN NULL;
        ELSIF jsonb_typeof(value) IN ('string', 'number', 'boolean') THEN
            paths := paths || jsonb_build_array(pair->0);
            sought := sought || jsonb_build_array(value);
        ELSE
            value := jsonb_build_array(
                '==', jsonb_build_array('path', '["async"]' || (pair->0)),
                jsonb_build_array('lit', value));
            condition := CASE WHEN condition IS NULL THEN value
                ELSE jsonb_build_array('and', condition, value) END;
        END IF;
    END LOOP;
    RETURN rule || jsonb_build_object(
        'match_paths', paths, 'match_value', runyard.match_values_v1(sought),
        'condition', condition);
END $$;

-- Whether a row was written after a snapshot (NULL: always). `written` is the row's xmin, the lower
-- 32 bits of a transaction id; the upper ones are those of the present, or one less.
CREATE FUNCTION runyard.written_after_v1(written xid, snapshot pg_snapshot) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT snapshot IS NULL OR NOT pg_visible_in_snapshot((
        SELECT CASE WHEN guess > latest THEN guess - 4294967296 ELSE guess END::text::xid8
        FROM (
            SELECT latest, ((latest >> 32) << 32) + written::text::bigint AS guess
            FROM (
                SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS latest
            ) AS present
        ) AS guessed
    ), snapshot)
$$;
