-- The statements about applications that serve functions with Inngest's SDKs.

-- name: lock_apps
-- Held while an application is registered: names are given to one at a time.
-- (an advisory lock, nothing scanned)
SELECT pg_advisory_xact_lock(8290, hashtext('apps'))

-- name: lock_discovery
-- Whether this session looks for applications: one at a time does.
-- (an advisory lock, nothing scanned)
SELECT pg_try_advisory_lock(8290, hashtext('app discovery')) AS locked

-- name: app
-- An application. (by apps_pkey)
SELECT * FROM runyard.apps WHERE name = %(name)s

-- name: apps
-- Every application with its functions. (small tables: scanned)
SELECT apps.*, coalesce((
    SELECT jsonb_agg(
        jsonb_build_object(
            'name', app_functions.function, 'slug', app_functions.slug,
            'title', app_functions.title,
            'triggers', coalesce(definition->'triggers', definition->'Triggers'))
        ORDER BY app_functions.slug)
    FROM runyard.app_functions JOIN runyard.functions ON functions.name = app_functions.function
        AND functions.location = 'app ' || app_functions.app
    WHERE app_functions.app = apps.name AND functions.active
), '[]') AS functions
FROM runyard.apps ORDER BY apps.name

-- name: named_app_functions
-- The names that functions with these ids have. (by app_functions_slug_key, functions_pkey)
SELECT app_functions.slug, app_functions.function AS name, app_functions.app, functions.active
FROM runyard.app_functions JOIN runyard.functions ON functions.name = app_functions.function
    AND functions.location = 'app ' || app_functions.app
WHERE app_functions.slug = ANY (%(slugs)s)

-- name: taken_names
-- Which of these names functions have, and whether the code of a project has them now.
-- (by functions_pkey)
SELECT name, active AND coalesce(location, '') NOT LIKE 'app %%' AS in_code
FROM runyard.functions WHERE name = ANY (%(names)s)

-- name: names_of_apps
-- Which of these names functions of applications have now. (by functions_pkey, app_functions_pkey)
SELECT functions.name, app_functions.app, app_functions.slug
FROM runyard.functions JOIN runyard.app_functions ON app_functions.function = functions.name
    AND functions.location = 'app ' || app_functions.app
WHERE functions.name = ANY (%(names)s) AND functions.active
ORDER BY functions.name

-- name: write_app
-- Write a registration, and tell those who wait for one. (by apps_pkey)
INSERT INTO runyard.apps (
    name, url, sdk, framework, version, digest, warnings, asked, synced_at)
VALUES (
    %(name)s, %(url)s, %(sdk)s, %(framework)s, %(version)s, %(digest)s, %(warnings)s, %(asked)s,
    now())
ON CONFLICT (name) DO UPDATE SET
    url = excluded.url, sdk = excluded.sdk, framework = excluded.framework,
    version = excluded.version, digest = excluded.digest, warnings = excluded.warnings,
    asked = excluded.asked, synced_at = excluded.synced_at, error = NULL, error_at = NULL
RETURNING pg_notify('runyard_apps', left(name, 200))

-- name: touch_app
-- Note that an application registered the same once more. (by apps_pkey)
UPDATE runyard.apps SET asked = %(asked)s, synced_at = now(), error = NULL, error_at = NULL
WHERE name = %(name)s

-- name: forget_app_functions
-- Forget functions with these ids whose name another function has by now.
-- (by app_functions_slug_key)
DELETE FROM runyard.app_functions USING jsonb_to_recordset(%(functions)s::jsonb)
    AS declared (name text, slug text)
WHERE app_functions.slug = declared.slug AND app_functions.function <> declared.name

-- name: write_app_functions
-- Write the functions of an application. (by app_functions_pkey)
INSERT INTO runyard.app_functions (function, app, slug, title, url, digest, definition)
SELECT name, %(app)s, slug, title, url, digest, definition
FROM jsonb_to_recordset(%(functions)s::jsonb) AS declared (
    name text, slug text, title text, url text, digest text, definition jsonb)
ON CONFLICT (function) DO UPDATE SET
    app = excluded.app, slug = excluded.slug, title = excluded.title, url = excluded.url,
    digest = excluded.digest, definition = excluded.definition

-- name: note_app_error
-- Note why an application could not be registered; the registration that it has stays.
-- (by apps_pkey)
INSERT INTO runyard.apps (name, url, asked, error, error_at)
VALUES (%(name)s, %(url)s, %(asked)s, %(error)s, now())
ON CONFLICT (name) DO UPDATE SET
    asked = excluded.asked, error = excluded.error, error_at = excluded.error_at
WHERE apps.error IS DISTINCT FROM excluded.error OR excluded.asked <> ''

-- name: apps_asked
-- The applications that were asked with this last. (a small table: scanned)
SELECT name, error FROM runyard.apps WHERE asked = %(asked)s ORDER BY name

-- name: remove_app
-- Remove an application, and tell those who wait for one. (by apps_pkey)
DELETE FROM runyard.apps WHERE name = %(name)s
RETURNING name, pg_notify('runyard_apps', left(name, 200))

-- name: apps_at
-- The applications that are served at one of these URLs. (a small table: scanned)
SELECT name FROM runyard.apps WHERE url = ANY (%(urls)s) ORDER BY name

-- name: app_function
-- A function of an application, by its name or its id. One whose name the project's code has by now
-- is none. (by app_functions_pkey, app_functions_slug_key, functions_pkey)
SELECT app_functions.* FROM (
    SELECT * FROM runyard.app_functions WHERE function = %(name)s
    UNION ALL SELECT * FROM runyard.app_functions WHERE slug = %(slug)s
) AS app_functions
JOIN runyard.functions ON functions.name = app_functions.function
    AND functions.location = 'app ' || app_functions.app
LIMIT 1

-- name: active_app_functions
-- The functions that applications have now. (small tables: scanned)
SELECT app_functions.* FROM runyard.app_functions
JOIN runyard.functions ON functions.name = app_functions.function
    AND functions.location = 'app ' || app_functions.app
WHERE functions.active ORDER BY functions.name

-- name: ending_app_functions
-- The functions that applications have no longer, and whose runs have not all ended.
-- (by invocations_due, invocations_keyed, batches_open; the other tables are small: scanned)
SELECT app_functions.* FROM runyard.app_functions
JOIN runyard.functions ON functions.name = app_functions.function
WHERE NOT functions.active AND (
    EXISTS (
        SELECT FROM runyard.invocations
        WHERE invocations.function = functions.name AND keys IS NULL
            AND status IN ('queued', 'sleeping', 'waiting'))
    OR EXISTS (
        SELECT FROM runyard.invocations
        WHERE invocations.function = functions.name AND keys IS NOT NULL
            AND status IN ('queued', 'sleeping', 'waiting'))
    OR EXISTS (
        SELECT FROM runyard.batches
        WHERE batches.function = functions.name AND status IN ('claimed', 'running'))
) ORDER BY functions.name

-- name: apps_digest
-- Identifies what applications have registered now. (small tables: scanned)
SELECT md5(coalesce(
    string_agg(concat_ws(' ', function, app_functions.digest), ',' ORDER BY function), ''
)) AS digest, count(*) AS functions
FROM runyard.app_functions JOIN runyard.functions ON functions.name = app_functions.function
    AND functions.location = 'app ' || app_functions.app
WHERE functions.active

-- name: remote_run
-- An invocation of an application's function with its event. (by invocations_pkey,
-- app_functions_pkey, events_pkey)
SELECT invocations.id, invocations.created_at, invocations.status, invocations.event_id,
    events.name, events.data, events."user", events.v,
    floor(extract(epoch FROM events.ts) * 1000)::bigint AS ts
FROM runyard.invocations
JOIN runyard.app_functions ON app_functions.function = invocations.function
JOIN runyard.events ON events.id = invocations.event_id
WHERE invocations.id = %(invocation)s

-- name: remote_memos
-- What the steps of an invocation have come to, in the order in which they ended. (by steps_pkey)
SELECT step, output FROM runyard.steps
WHERE invocation_id = %(invocation)s AND error IS NULL ORDER BY number
