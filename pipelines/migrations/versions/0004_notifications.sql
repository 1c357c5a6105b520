-- Notifications, how users want them, and messages of the contact form.

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
COMMENT ON COLUMN app.notification_preferences.digest IS 'One mail for all that came within some minutes, instead of one for each.';

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
    id         text PRIMARY KEY,
    event_id   text NOT NULL,
    name       text NOT NULL,
    email      text NOT NULL,
    message    text NOT NULL,
    page       text,
    reasons    text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.contact_messages.reasons IS 'Why it looks like spam; empty for one that does not.';
CREATE INDEX contact_messages_email ON app.contact_messages (email, created_at);
