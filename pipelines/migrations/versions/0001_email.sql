-- The mail family: every message with where it stands, and the addresses that must not be mailed.

CREATE TABLE app.email_messages (
    id                  text PRIMARY KEY,
    event_id            text NOT NULL,
    recipients          text[] NOT NULL,
    subject             text NOT NULL,
    template            text,
    provider            text,
    provider_message_id text,
    status              text NOT NULL CHECK (status IN ('queued', 'sent', 'suppressed', 'failed', 'deferred', 'delivered', 'bounced', 'dropped', 'opened', 'clicked', 'complained', 'unsubscribed')),
    error               text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    sent_at             timestamptz,
    updated_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.email_messages IS 'A mail and where it stands: queued, sent, suppressed or failed by us; the later ones by the provider''s webhook.';
CREATE INDEX email_messages_event ON app.email_messages (event_id);
CREATE INDEX email_messages_provider ON app.email_messages (provider_message_id) WHERE provider_message_id IS NOT NULL;

CREATE TABLE app.suppressions (
    address    text PRIMARY KEY CHECK (address = lower(address)),
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.suppressions IS 'Addresses that are not mailed: bounced, complained, unsubscribed.';
