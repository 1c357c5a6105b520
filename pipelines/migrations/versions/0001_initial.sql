-- Email: every message with its status, the provider's reports, and addresses that must not be
-- mailed.

CREATE TABLE app.email_messages (
    id                  text PRIMARY KEY,
    event_id            text NOT NULL,
    recipients          text[] NOT NULL,
    subject             text NOT NULL,
    template            text,
    provider            text,
    provider_message_id text,
    status              text NOT NULL CHECK (status IN (
        'queued', 'sent', 'suppressed', 'failed', 'deferred', 'delivered', 'bounced', 'dropped',
        'opened', 'clicked', 'complained', 'unsubscribed')),
    error               text,
    created_at          timestamptz NOT NULL DEFAULT runyard.now(),
    sent_at             timestamptz,
    updated_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.email_messages IS
    'A mail and its status: queued, sent, suppressed and failed are set by us, the later ones by '
    'the provider''s webhook.';
CREATE INDEX email_messages_event ON app.email_messages (event_id);
CREATE INDEX email_messages_provider ON app.email_messages (provider_message_id)
    WHERE provider_message_id IS NOT NULL;
CREATE INDEX email_messages_created_at ON app.email_messages (created_at);

CREATE TABLE app.email_reports (
    id                  text PRIMARY KEY,
    kind                text NOT NULL,
    message_id          text,
    provider_message_id text,
    address             text NOT NULL,
    at                  timestamptz NOT NULL,
    hard                boolean NOT NULL,
    group_id            bigint,
    reason              text,
    report              jsonb NOT NULL,
    received_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.email_reports IS
    'Every event of the provider''s webhook, once, whatever the order of arrival; the states of '
    'mails and addresses are derived from them.';
COMMENT ON COLUMN app.email_reports.message_id IS
    'Our id of the mail, if the report is about one of ours.';
COMMENT ON COLUMN app.email_reports.hard IS
    'A bounce that means the address does not work (not one that blocked only this mail).';
CREATE INDEX email_reports_message ON app.email_reports (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX email_reports_address ON app.email_reports (address, kind);

CREATE TABLE app.suppressions (
    address    text PRIMARY KEY CHECK (address = lower(address)),
    reason     text NOT NULL,
    source     text NOT NULL DEFAULT 'manual',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
COMMENT ON TABLE app.suppressions IS
    'Addresses that are not mailed: bounced, complained, unsubscribed.';
COMMENT ON COLUMN app.suppressions.source IS
    'Who suppressed it: manual, or the provider''s reports, which may also lift it.';
COMMENT ON COLUMN app.suppressions.expires_at IS
    'When it ends by itself; NULL: never.';

-- AI content: generated texts, and every call of a text provider.

CREATE TABLE app.content (
    id              text PRIMARY KEY,
    event_id        text NOT NULL,
    user_id         text,
    topic           text NOT NULL,
    kind            text NOT NULL,
    language        text NOT NULL,
    status          text NOT NULL CHECK (status IN ('complete', 'needs review')),
    outline         jsonb NOT NULL,
    text            text NOT NULL,
    provider        text NOT NULL,
    model           text NOT NULL,
    offline         boolean NOT NULL,
    prompt_versions text[] NOT NULL,
    usage           jsonb NOT NULL,
    remarks         text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.content.remarks IS
    'What the check found: a wrong language, a length far from the requested one, an unfinished '
    'sentence.';
CREATE INDEX content_user ON app.content (user_id, created_at);

CREATE TABLE app.ai_calls (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    user_id       text,
    purpose       text NOT NULL,
    provider      text NOT NULL,
    model         text NOT NULL,
    status        text NOT NULL,
    finish_reason text,
    prompt_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost          numeric(14, 8),
    seconds       real NOT NULL,
    error         text
);
COMMENT ON COLUMN app.ai_calls.cost IS
    'US dollars by the price table of the time; NULL if that has no price for the model.';
CREATE INDEX ai_calls_at ON app.ai_calls (at);
CREATE INDEX ai_calls_user ON app.ai_calls (user_id, at) WHERE user_id IS NOT NULL;

-- Notifications, users' preferences, and messages of the contact form.

CREATE TABLE app.notification_preferences (
    user_id     text PRIMARY KEY,
    email       text,
    webhook_url text,
    channels    text[] NOT NULL DEFAULT '{in-app,mail}',
    muted       text[] NOT NULL DEFAULT '{}',
    quiet_from  time,
    quiet_until time,
    timezone    text NOT NULL DEFAULT 'UTC',
    digest      boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN app.notification_preferences.digest IS
    'One mail for everything that arrives within some minutes, instead of one each.';

CREATE TABLE app.notifications (
    id         text PRIMARY KEY,
    user_id    text NOT NULL,
    kind       text NOT NULL,
    title      text NOT NULL,
    message    text NOT NULL,
    action_url text,
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at    timestamptz
);
CREATE INDEX notifications_user ON app.notifications (user_id, created_at DESC);

CREATE TABLE app.contact_messages (
    id           text PRIMARY KEY,
    event_id     text NOT NULL,
    name         text NOT NULL,
    email        text NOT NULL,
    mailbox      text NOT NULL,
    message      text NOT NULL,
    page         text,
    reasons      text[] NOT NULL,
    acknowledged boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.contact_messages.mailbox IS
    'The address without what a sender may choose freely: its name, its case, its tag (+news).';
COMMENT ON COLUMN app.contact_messages.reasons IS
    'Why it looks like spam; empty if it does not.';
COMMENT ON COLUMN app.contact_messages.acknowledged IS
    'Whether the sender was told that the message has arrived.';
CREATE INDEX contact_messages_mailbox ON app.contact_messages (mailbox, created_at);
CREATE INDEX contact_messages_acknowledged ON app.contact_messages (created_at)
    WHERE acknowledged;

-- Media: images and videos, and the variants made from them.

CREATE TABLE app.media (
    id            text PRIMARY KEY,
    event_id      text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('image', 'video')),
    source        text NOT NULL,
    original      text NOT NULL,
    bytes         bigint NOT NULL,
    variant_bytes bigint NOT NULL,
    width         integer NOT NULL,
    height        integer NOT NULL,
    placeholder   text NOT NULL,
    colour        text NOT NULL,
    manifest      jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.media.original IS
    'The key of the original in the media store; the manifest has those of its variants.';
COMMENT ON COLUMN app.media.placeholder IS
    'A BlurHash.';
CREATE INDEX media_created_at ON app.media (created_at);

-- Sync: what has been loaded from other systems.

CREATE TABLE app.sync_loads (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source     text NOT NULL,
    table_name text NOT NULL,
    rows       bigint NOT NULL,
    watermark  timestamptz,
    seconds    real NOT NULL,
    loaded_at  timestamptz NOT NULL DEFAULT runyard.now()
);
COMMENT ON COLUMN app.sync_loads.watermark IS
    'The newest time in the rows of the table after the load, if it is loaded by a time.';
CREATE INDEX sync_loads_at ON app.sync_loads (loaded_at);

-- Webhooks: payloads that are too large for an event.

CREATE TABLE app.webhook_payloads (
    id          text PRIMARY KEY,
    bytes       bigint NOT NULL,
    payload     jsonb NOT NULL,
    received_at timestamptz NOT NULL
);
COMMENT ON TABLE app.webhook_payloads IS
    'The whole payload that a webhook posted, if it is too large for an event, which names it as '
    'payload_ref.';
COMMENT ON COLUMN app.webhook_payloads.id IS
    'The idempotency key of the event: the sender and the id of its delivery.';
CREATE INDEX webhook_payloads_received_at ON app.webhook_payloads (received_at);

-- Analytics: the figures of each day (UTC). A day is always written as a whole, so that writing it
-- again gives the same result.

CREATE SCHEMA IF NOT EXISTS analytics;

CREATE TABLE analytics.days (
    rollup  text NOT NULL,
    day     date NOT NULL,
    rows    integer NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollup, day)
);
COMMENT ON TABLE analytics.days IS
    'The days that each of the other tables has, including those on which nothing happened.';

CREATE TABLE analytics.events (
    day    date NOT NULL,
    name   text NOT NULL,
    source text NOT NULL,
    events bigint NOT NULL,
    late   bigint NOT NULL,
    PRIMARY KEY (day, name, source)
);

CREATE TABLE analytics.functions (
    day          date NOT NULL,
    function     text NOT NULL,
    invocations  bigint NOT NULL,
    succeeded    bigint NOT NULL,
    failed       bigint NOT NULL,
    cancelled    bigint NOT NULL,
    skipped      bigint NOT NULL,
    open         bigint NOT NULL,
    attempts     bigint NOT NULL,
    success_rate double precision,
    wait_p50     double precision,
    wait_p95     double precision,
    wait_p99     double precision,
    run_p50      double precision,
    run_p95      double precision,
    run_p99      double precision,
    PRIMARY KEY (day, function)
);

CREATE TABLE analytics.mail (
    day        date NOT NULL,
    template   text NOT NULL,
    mails      bigint NOT NULL,
    sent       bigint NOT NULL,
    delivered  bigint NOT NULL,
    opened     bigint NOT NULL,
    clicked    bigint NOT NULL,
    bounced    bigint NOT NULL,
    complained bigint NOT NULL,
    failed     bigint NOT NULL,
    suppressed bigint NOT NULL,
    PRIMARY KEY (day, template)
);

CREATE TABLE analytics.ai (
    day           date NOT NULL,
    provider      text NOT NULL,
    model         text NOT NULL,
    user_id       text NOT NULL,
    calls         bigint NOT NULL,
    failed        bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost          double precision,
    seconds_p50   double precision,
    seconds_p95   double precision,
    PRIMARY KEY (day, provider, model, user_id)
);

CREATE TABLE analytics.media (
    day           date NOT NULL,
    kind          text NOT NULL,
    assets        bigint NOT NULL,
    bytes         bigint NOT NULL,
    variant_bytes bigint NOT NULL,
    saved_bytes   bigint NOT NULL,
    PRIMARY KEY (day, kind)
);

CREATE TABLE analytics.sync (
    day         date NOT NULL,
    source      text NOT NULL,
    table_name  text NOT NULL,
    loads       bigint NOT NULL,
    rows        bigint NOT NULL,
    seconds     double precision NOT NULL,
    lag_seconds double precision,
    PRIMARY KEY (day, source, table_name)
);
