-- Applications that serve functions with Inngest's SDKs.

CREATE TABLE runyard.apps (
    name      text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    url       text NOT NULL,
    sdk       text NOT NULL DEFAULT '',
    framework text NOT NULL DEFAULT '',
    version   text NOT NULL DEFAULT '',
    digest    text NOT NULL DEFAULT '',
    warnings  text[] NOT NULL DEFAULT '{}',
    asked     text NOT NULL DEFAULT '',
    synced_at timestamptz,
    error     text,
    error_at  timestamptz
);
COMMENT ON TABLE runyard.apps IS
    'An application as it registered last, and what was wrong if it could not be registered.';
COMMENT ON COLUMN runyard.apps.digest IS
    'Identifies the registration: the same one again changes nothing.';
COMMENT ON COLUMN runyard.apps.warnings IS
    'What is done otherwise than the application says, in words.';
COMMENT ON COLUMN runyard.apps.asked IS
    'What it was asked to register with last; it repeats that when it does.';
COMMENT ON COLUMN runyard.apps.error IS
    'Why the last registration was refused; NULL if it was not.';

CREATE TABLE runyard.app_functions (
    function   text PRIMARY KEY,
    app        text NOT NULL,
    slug       text NOT NULL UNIQUE,
    title      text NOT NULL,
    url        text NOT NULL,
    digest     text NOT NULL,
    definition jsonb NOT NULL
);
COMMENT ON TABLE runyard.app_functions IS
    'The functions of applications, also those that an application has no longer: runs that have '
    'begun are still called.';
COMMENT ON COLUMN runyard.app_functions.slug IS
    'Its id in Inngest''s protocol: that of the application, a hyphen, and its own.';
COMMENT ON COLUMN runyard.app_functions.definition IS
    'As the application registered it.';
CREATE INDEX app_functions_app ON runyard.app_functions (app);
