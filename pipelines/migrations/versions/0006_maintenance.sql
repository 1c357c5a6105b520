-- Suppressions that end by themselves.

ALTER TABLE app.suppressions ADD COLUMN expires_at timestamptz;
COMMENT ON COLUMN app.suppressions.expires_at IS 'When it ends by itself; NULL: never.';
