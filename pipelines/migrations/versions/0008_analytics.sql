-- What each day (UTC) comes to. A day is written as a whole, so that writing it again gives the same.

CREATE SCHEMA IF NOT EXISTS analytics;

CREATE TABLE analytics.days (
    rollup   text NOT NULL,
    day      date NOT NULL,
    rows     integer NOT NULL,
    made_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollup, day)
);
COMMENT ON TABLE analytics.days IS 'Which days there are of each table, also those on which nothing happened.';

CREATE TABLE analytics.events (
    day date NOT NULL, name text NOT NULL, source text NOT NULL, events bigint NOT NULL, late bigint NOT NULL, PRIMARY KEY (day, name, source)
);
CREATE TABLE analytics.functions (
    day date NOT NULL, function text NOT NULL, invocations bigint NOT NULL, succeeded bigint NOT NULL, failed bigint NOT NULL, cancelled bigint NOT NULL,
    skipped bigint NOT NULL, open bigint NOT NULL, attempts bigint NOT NULL, success_rate double precision,
    wait_p50 double precision, wait_p95 double precision, wait_p99 double precision, run_p50 double precision, run_p95 double precision, run_p99 double precision,
    PRIMARY KEY (day, function)
);
CREATE TABLE analytics.mail (
    day date NOT NULL, template text NOT NULL, mails bigint NOT NULL, sent bigint NOT NULL, delivered bigint NOT NULL, opened bigint NOT NULL, clicked bigint NOT NULL,
    bounced bigint NOT NULL, complained bigint NOT NULL, failed bigint NOT NULL, suppressed bigint NOT NULL, PRIMARY KEY (day, template)
);
CREATE TABLE analytics.ai (
    day date NOT NULL, provider text NOT NULL, model text NOT NULL, user_id text NOT NULL, calls bigint NOT NULL, failed bigint NOT NULL, prompt_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL, cost double precision, seconds_p50 double precision, seconds_p95 double precision, PRIMARY KEY (day, provider, model, user_id)
);
CREATE TABLE analytics.media (
    day date NOT NULL, kind text NOT NULL, assets bigint NOT NULL, bytes bigint NOT NULL, variant_bytes bigint NOT NULL, saved_bytes bigint NOT NULL, PRIMARY KEY (day, kind)
);
CREATE TABLE analytics.sync (
    day date NOT NULL, source text NOT NULL, table_name text NOT NULL, loads bigint NOT NULL, rows bigint NOT NULL, seconds double precision NOT NULL,
    lag_seconds double precision, PRIMARY KEY (day, source, table_name)
);
CREATE INDEX email_messages_created_at ON app.email_messages (created_at);
-- Their days are those of the events, also where a test owns the time.
ALTER TABLE app.email_messages ALTER COLUMN created_at SET DEFAULT runyard.now();
ALTER TABLE app.sync_loads ALTER COLUMN loaded_at SET DEFAULT runyard.now();
