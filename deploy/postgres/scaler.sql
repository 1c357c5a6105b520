-- A role for the scaler of workers, which counts what is due and reads no data of events. Run this
-- as the role that ran `runyard migrate`, or a superuser; then
--   ALTER ROLE runyard_scaler LOGIN PASSWORD '...';
DO $$ BEGIN
    CREATE ROLE runyard_scaler NOLOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT USAGE ON SCHEMA runyard TO runyard_scaler;
GRANT SELECT (function, status, keys, due_at) ON runyard.invocations TO runyard_scaler;
GRANT SELECT (name, active, paused_at) ON runyard.functions TO runyard_scaler;
