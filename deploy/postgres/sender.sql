-- A role for applications that send events with `runyard.send`, from Python or SQL, and may do
-- nothing else: not read what events hold, nor claim, cancel or delete anything. Run this as the
-- role that ran `runyard migrate`, or a superuser, and again after each migration; then
--   GRANT runyard_sender TO shop;
DO $$ BEGIN
    CREATE ROLE runyard_sender NOLOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT USAGE ON SCHEMA runyard TO runyard_sender;
GRANT INSERT ON runyard.events, runyard.invocations, runyard.waits, runyard.tallies
    TO runyard_sender;
-- What an idempotency key is compared with, and when it is free again.
GRANT SELECT (id, name, sender, idempotency_key, received_at), UPDATE (idempotency_key)
    ON runyard.events TO runyard_sender;
-- The trigger on events: which functions there are, and the invocations that it makes.
GRANT SELECT ON runyard.functions, runyard.triggers TO runyard_sender;
GRANT SELECT (id, event_id, function, status, expires_at), UPDATE (expires_at)
    ON runyard.invocations TO runyard_sender;
GRANT SELECT (event, resolved_at) ON runyard.waits TO runyard_sender;
-- What a newer version has recorded, so that a client can say that it is older than the database.
GRANT SELECT ON runyard.schemas TO runyard_sender;
