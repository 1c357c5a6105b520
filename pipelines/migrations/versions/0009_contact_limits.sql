-- The limits of the contact form: by the mailbox behind an address, and over all that are acknowledged.

ALTER TABLE app.contact_messages ADD COLUMN mailbox text, ADD COLUMN acknowledged boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN app.contact_messages.mailbox IS 'The address without what a sender may choose freely: its name, its case, its tag (+news).';
COMMENT ON COLUMN app.contact_messages.acknowledged IS 'Whether the sender was told that the message has come.';
UPDATE app.contact_messages SET mailbox = email;
ALTER TABLE app.contact_messages ALTER COLUMN mailbox SET NOT NULL;
CREATE INDEX contact_messages_mailbox ON app.contact_messages (mailbox, created_at);
CREATE INDEX contact_messages_acknowledged ON app.contact_messages (created_at) WHERE acknowledged;
DROP INDEX app.contact_messages_email;
