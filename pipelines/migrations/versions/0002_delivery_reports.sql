-- What the mail provider reports of each mail, and who reported a suppressed address.

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
COMMENT ON TABLE app.email_reports IS 'Every event of the provider''s webhook, once, whatever the order in which they came; the states of mails and addresses are made of them.';
COMMENT ON COLUMN app.email_reports.message_id IS 'Our id of the mail, where the report names one of ours.';
COMMENT ON COLUMN app.email_reports.hard IS 'A bounce that says the address is of no use (not one that blocked this mail alone).';
CREATE INDEX email_reports_message ON app.email_reports (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX email_reports_address ON app.email_reports (address, kind);

ALTER TABLE app.suppressions ADD COLUMN source text NOT NULL DEFAULT 'manual';
COMMENT ON COLUMN app.suppressions.source IS 'Who says so: manual, or the provider''s reports, which may take it back.';
