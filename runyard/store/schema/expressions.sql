-- Expressions over events (runyard/syntax/expressions.py), evaluated where events are fanned out,
-- so that every sender is served. `runyard.syntax.expression_values` says what they mean and does
-- the same in Python. NULL stands for what has failed, and JSON's null for null.

-- Whether a value counts as true in a condition, as in JavaScript.
CREATE FUNCTION runyard.cel_true_v1(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT value NOT IN ('null', 'false', '0', '""')
$$;

-- The text of a value, as + and string() take it; NULL for what has none.
CREATE FUNCTION runyard.cel_text_v1(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE jsonb_typeof(value)
        WHEN 'number' THEN trim_scale((value #>> '{}')::numeric)::text
        WHEN 'string' THEN value #>> '{}'
        WHEN 'boolean' THEN value #>> '{}' END
$$;

-- An element of an object or a list; null when there is none.
CREATE FUNCTION runyard.cel_get_v1(value jsonb, key jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(CASE
        WHEN value IS NULL OR key IS NULL THEN NULL
        WHEN jsonb_typeof(value) = 'object' AND jsonb_typeof(key) = 'string'
            THEN coalesce(value -> (key #>> '{}'), 'null')
        WHEN jsonb_typeof(value) = 'array' AND key #>> '{}' ~ '^[0-9]{1,9}(\.0+)?$'
            THEN coalesce(value -> ((key #>> '{}')::numeric::integer), 'null')
        ELSE 'null' END)
$$;

-- -1, 0 or 1; null is less than anything, and NULL stands for values that have no order.
CREATE FUNCTION runyard.cel_order_v1(one jsonb, other jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN one = 'null' OR other = 'null'
            THEN (one <> 'null')::integer - (other <> 'null')::integer
        WHEN jsonb_typeof(one) <> jsonb_typeof(other) THEN NULL
        WHEN jsonb_typeof(one) = 'string' THEN
            (one #>> '{}' COLLATE "C" > other #>> '{}')::integer
            - (one #>> '{}' COLLATE "C" < other #>> '{}')::integer
        WHEN jsonb_typeof(one) IN ('number', 'boolean')
            THEN (one > other)::integer - (one < other)::integer END
$$;

-- Calculations; NULL for what are no numbers, for a division by zero, and for what is too large.
-- Whole numbers are exact, others those of JavaScript.
CREATE FUNCTION runyard.cel_calculate_v1(operator text, one jsonb, other jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    a numeric;
    b numeric;
BEGIN
    IF jsonb_typeof(one) IS DISTINCT FROM 'number' OR jsonb_typeof(other) IS DISTINCT FROM 'number'
    THEN
        RETURN NULL;
    END IF;
    a := (one #>> '{}')::numeric;
    b := (other #>> '{}')::numeric;
    IF abs(a) > 1e308 OR abs(b) > 1e308 OR operator IN ('/', '%') AND b = 0
        OR operator = '%' AND (a <> trunc(a) OR b <> trunc(b))
    THEN
        RETURN NULL;
    ELSIF operator <> '/' AND a = trunc(a) AND b = trunc(b) THEN
        RETURN to_jsonb(trim_scale(CASE operator
            WHEN '+' THEN a + b
            WHEN '-' THEN a - b
            WHEN '*' THEN a * b
            WHEN '%' THEN mod(a, b) END));
    END IF;
    BEGIN
        RETURN to_jsonb(trim_scale((CASE operator
            WHEN '+' THEN a::float8 + b::float8
            WHEN '-' THEN a::float8 - b::float8
            WHEN '*' THEN a::float8 * b::float8
            WHEN '/' THEN a::float8 / b::float8 END)::text::numeric));
    EXCEPTION WHEN numeric_value_out_of_range THEN
        RETURN NULL;
    END;
END $$;

-- Addition: of numbers, texts and lists; null plus a value is that value.
CREATE FUNCTION runyard.cel_sum_v1(one jsonb, other jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kind CONSTANT text := jsonb_typeof(one);
    other_kind CONSTANT text := jsonb_typeof(other);
BEGIN
    RETURN CASE
        WHEN kind = 'null' THEN other
        WHEN other_kind = 'null' THEN one
        WHEN kind = 'number' AND other_kind = 'number'
            THEN runyard.cel_calculate_v1('+', one, other)
        WHEN kind = 'array' AND other_kind = 'array' THEN one || other
        WHEN 'string' IN (kind, other_kind)
            THEN to_jsonb(runyard.cel_text_v1(one) || runyard.cel_text_v1(other)) END;
END $$;

-- What a function of values comes to. A function of null is false, except for the size, which is 0.
CREATE FUNCTION runyard.cel_call_v1(name text, one jsonb, other jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kind CONSTANT text := jsonb_typeof(one);
    whole CONSTANT text := one #>> '{}';
    part CONSTANT text := other #>> '{}';
BEGIN
    IF one IS NULL OR other IS NULL AND name IN ('contains', 'startsWith', 'endsWith') THEN
        RETURN NULL;
    ELSIF name = 'size' THEN
        RETURN CASE kind
            WHEN 'null' THEN '0'
            WHEN 'string' THEN to_jsonb(length(whole))
            WHEN 'array' THEN to_jsonb(jsonb_array_length(one))
            WHEN 'object' THEN to_jsonb((SELECT count(*) FROM jsonb_object_keys(one))) END;
    ELSIF one = 'null' OR other = 'null' THEN
        RETURN 'false';
    ELSIF name = 'contains' AND kind = 'array' THEN
        RETURN to_jsonb(EXISTS (SELECT FROM jsonb_array_elements(one) AS each WHERE each = other));
    ELSIF name IN ('contains', 'startsWith', 'endsWith') THEN
        RETURN CASE WHEN kind = 'string' AND jsonb_typeof(other) = 'string' THEN to_jsonb(
            CASE name
                WHEN 'contains' THEN strpos(whole, part) > 0
                WHEN 'startsWith' THEN starts_with(whole, part)
                ELSE right(whole, length(part)) = part OR part = '' END) END;
    ELSIF name IN ('lowercase', 'uppercase') THEN
        RETURN CASE WHEN kind = 'string' THEN to_jsonb(
            CASE name WHEN 'lowercase' THEN lower(whole) ELSE upper(whole) END) END;
    ELSIF name = 'string' THEN
        RETURN to_jsonb(runyard.cel_text_v1(one));
    ELSIF kind NOT IN ('number', 'string')
        OR whole !~ '^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,2})?\s*$'
        OR length(whole) > 100 OR abs(whole::numeric) > 9223372036854775808
    THEN
        RETURN NULL;  -- int, uint, double of what is no number
    END IF;
    RETURN to_jsonb(CASE name
        WHEN 'double' THEN trim_scale(whole::numeric) ELSE trunc(whole::numeric) END);
END $$;

-- What an expression comes to. `scope` has the events by their roots (event, async), and a macro's
-- variable by its name.
CREATE FUNCTION runyard.cel_v1(tree jsonb, scope jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    operator CONSTANT text := tree ->> 0;
    one jsonb;
    other jsonb;
    kept jsonb;
    each jsonb;
    names text;
    number bigint;
BEGIN
    CASE operator
    WHEN 'lit' THEN
        RETURN tree -> 1;
    WHEN 'path' THEN
        names := tree ->> 1;
        IF names ~ '^\["[A-Za-z_][A-Za-z0-9_-]*"(, "[A-Za-z_][A-Za-z0-9_-]*")*\]$' THEN
            RETURN coalesce(scope #> translate(names, '[]', '{}')::text[], 'null');
        END IF;
        one := scope;  -- with positions in lists, or odd names
        FOR each IN SELECT value FROM jsonb_array_elements(tree -> 1) AS parts (value) LOOP
            one := runyard.cel_get_v1(one, each);
        END LOOP;
        RETURN one;
    WHEN 'var' THEN
        RETURN scope -> (tree ->> 1);
    WHEN 'list' THEN
        kept := '[]';
        FOR each IN SELECT value FROM jsonb_array_elements(tree -> 1) AS trees (value) LOOP
            one := runyard.cel_v1(each, scope);
            IF one IS NULL THEN
                RETURN NULL;
            END IF;
            kept := kept || jsonb_build_array(one);
        END LOOP;
        RETURN kept;
    WHEN 'or' THEN
        one := runyard.cel_v1(tree -> 1, scope);
        IF runyard.cel_true_v1(one) THEN
            RETURN one;
        END IF;
        other := runyard.cel_v1(tree -> 2, scope);
        RETURN CASE WHEN one IS NOT NULL OR runyard.cel_true_v1(other) THEN other END;
    WHEN 'and' THEN
        one := runyard.cel_v1(tree -> 1, scope);
        IF NOT runyard.cel_true_v1(one) THEN
            RETURN 'false';
        END IF;
        other := runyard.cel_v1(tree -> 2, scope);
        RETURN CASE
            WHEN NOT runyard.cel_true_v1(other) THEN 'false'::jsonb
            WHEN one IS NOT NULL AND other IS NOT NULL THEN 'true' END;
    WHEN 'if' THEN
        one := runyard.cel_v1(tree -> 1, scope);
        RETURN CASE
            WHEN one IS NULL THEN NULL
            WHEN runyard.cel_true_v1(one) THEN runyard.cel_v1(tree -> 2, scope)
            ELSE runyard.cel_v1(tree -> 3, scope) END;
    WHEN 'call' THEN
        RETURN runyard.cel_call_v1(
            tree ->> 1, runyard.cel_v1(tree -> 2, scope),
            CASE WHEN jsonb_array_length(tree) > 3 THEN runyard.cel_v1(tree -> 3, scope) END);
    WHEN 'all', 'exists', 'exists_one', 'filter', 'map' THEN
        one := runyard.cel_v1(tree -> 1, scope);
        IF one = 'null' THEN
            one := '[]';
        ELSIF jsonb_typeof(one) IS DISTINCT FROM 'array' THEN
            RETURN NULL;
        END IF;
        kept := '[]';
        number := 0;
        FOR each IN SELECT value FROM jsonb_array_elements(one) AS elements (value) LOOP
            other := runyard.cel_v1(
                tree -> 3, scope || jsonb_build_object(tree ->> 2, each));
            IF other IS NULL THEN
                RETURN NULL;
            ELSIF operator = 'map' THEN
                kept := kept || jsonb_build_array(other);
            ELSIF runyard.cel_true_v1(other) THEN
                number := number + 1;
                IF operator = 'filter' THEN
                    kept := kept || jsonb_build_array(each);
                END IF;
            END IF;
        END LOOP;
        RETURN CASE operator
            WHEN 'all' THEN to_jsonb(number = jsonb_array_length(one))
            WHEN 'exists' THEN to_jsonb(number > 0)
            WHEN 'exists_one' THEN to_jsonb(number = 1)
            ELSE kept END;
    ELSE
        NULL;
    END CASE;
    one := runyard.cel_v1(tree -> 1, scope);
    IF one IS NULL THEN
        RETURN NULL;
    ELSIF operator = 'not' THEN
        RETURN to_jsonb(NOT runyard.cel_true_v1(one));
    ELSIF operator = 'neg' THEN
        RETURN runyard.cel_calculate_v1('-', '0', one);
    END IF;
    other := runyard.cel_v1(tree -> 2, scope);
    IF other IS NULL THEN
        RETURN NULL;
    ELSIF operator = 'in' THEN
        RETURN CASE jsonb_typeof(other)
            WHEN 'null' THEN 'false'::jsonb
            WHEN 'array' THEN
                to_jsonb(EXISTS (SELECT FROM jsonb_array_elements(other) AS e WHERE e = one))
            WHEN 'object' THEN
                to_jsonb(jsonb_typeof(one) = 'string' AND other ? (one #>> '{}')) END;
    END IF;
    -- Without a subquery, which would cost several times as much.
    RETURN CASE operator
        WHEN 'get' THEN runyard.cel_get_v1(one, other)
        WHEN '==' THEN to_jsonb(one = other)
        WHEN '!=' THEN to_jsonb(one <> other)
        WHEN '<' THEN to_jsonb(runyard.cel_order_v1(one, other) < 0)
        WHEN '<=' THEN to_jsonb(runyard.cel_order_v1(one, other) <= 0)
        WHEN '>' THEN to_jsonb(runyard.cel_order_v1(one, other) > 0)
        WHEN '>=' THEN to_jsonb(runyard.cel_order_v1(one, other) >= 0)
        WHEN '+' THEN runyard.cel_sum_v1(one, other)
        ELSE runyard.cel_calculate_v1(operator, one, other) END;
END $$;

-- The same, where an error would be that of a sender: an expression that PostgreSQL cannot evaluate
-- has failed.
CREATE FUNCTION runyard.cel_value_v1(tree jsonb, scope jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN runyard.cel_v1(tree, scope);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;

-- Whether a condition is met: whether it comes to true.
CREATE FUNCTION runyard.cel_met_v1(tree jsonb, scope jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(runyard.cel_value_v1(tree, scope) = 'true', false)
$$;

-- The text of an expression as a key of flow control: lists and objects as JSON; NULL for null, and
-- for what has failed.
CREATE FUNCTION runyard.cel_key_v1(tree jsonb, scope jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    value CONSTANT jsonb := runyard.cel_value_v1(tree, scope);
BEGIN
    RETURN CASE WHEN value <> 'null' THEN coalesce(runyard.cel_text_v1(value), value::text) END;
END $$;

-- An expression in which the values of the events in `scope` have taken the place of their paths.
CREATE FUNCTION runyard.cel_bound_v1(tree jsonb, scope jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF jsonb_typeof(tree) <> 'array' OR tree ->> 0 = 'lit' THEN
        RETURN tree;
    ELSIF tree ->> 0 = 'path' THEN
        RETURN CASE
            WHEN scope ? (tree #>> '{1, 0}')
                THEN jsonb_build_array('lit', runyard.cel_v1(tree, scope))
            ELSE tree END;
    END IF;
    RETURN (
        SELECT coalesce(
            jsonb_agg(runyard.cel_bound_v1(part, scope) ORDER BY position), '[]')
        FROM jsonb_array_elements(tree) WITH ORDINALITY AS parts (part, position));
END $$;
