-- Webhooks' payloads that are too large for an event.

CREATE TABLE app.webhook_payloads (
    id          text PRIMARY KEY,
    bytes       bigint NOT NULL,
    payload     jsonb NOT NULL,
    received_at timestamptz NOT NULL
);
COMMENT ON TABLE app.webhook_payloads IS 'What a webhook has posted, whole, where it is too large for an event; the event names it as payload_ref.';
COMMENT ON COLUMN app.webhook_payloads.id IS 'The idempotency key of the event: the sender and the id of its delivery.';
CREATE INDEX webhook_payloads_received_at ON app.webhook_payloads (received_at);
