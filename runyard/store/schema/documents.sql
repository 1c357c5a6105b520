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

-- The keys of an event: its values at these paths ([["data", "tenant"], ...]).
CREATE FUNCTION runyard.keys_v1(document jsonb, paths jsonb) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(coalesce(
        runyard.shorten_v1(translate(
            document #>> ARRAY(SELECT jsonb_array_elements_text(path)), chr(29), '')),
        runyard.no_key_v1()) ORDER BY position), '{}')
    FROM jsonb_array_elements(paths) WITH ORDINALITY AS listed (path, position)
$$;

-- The values at these paths as one text, with their types: what a wait's `match_value` is compared
-- with.
CREATE FUNCTION runyard.match_value_v1(document jsonb, match_paths jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(runyard.shorten_v1(string_agg(
        coalesce((document #> ARRAY(SELECT jsonb_array_elements_text(path)))::text, 'null'),
        ' ' ORDER BY position)), '')
    FROM jsonb_array_elements(match_paths) WITH ORDINALITY AS listed (path, position)
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

-- Whether a wildcard or filter of a function matches an event. (by triggers_function)
CREATE FUNCTION runyard.triggered_v1(
    function text, id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM runyard.triggers
        WHERE triggers.function = triggered_v1.function
            AND CASE WHEN wildcard
                THEN triggered_v1.name LIKE triggers.event
                    AND (triggered_v1.name NOT LIKE 'runyard/%' OR triggers.event LIKE 'runyard/%')
                    AND (triggered_v1.name NOT LIKE 'inngest/%' OR triggers.event LIKE 'inngest/%')
                ELSE triggered_v1.name = triggers.event END
            AND runyard.filter_matches_v1(
                runyard.document_v1(id, name, data, "user", v, ts), filter)
    )
$$;

-- The priority that a path into the event gives, within its bounds; 0 if there is no number.
CREATE FUNCTION runyard.priority_v1(document jsonb, rule jsonb) RETURNS smallint
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT least(
            greatest(round(number::numeric), (rule->>'min')::numeric),
            (rule->>'max')::numeric)::smallint
        FROM jsonb_path_query_first(document, (rule->>'path')::jsonpath, '{}', true) AS number
        WHERE jsonb_typeof(number) = 'number'
    ), 0)
$$;

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
