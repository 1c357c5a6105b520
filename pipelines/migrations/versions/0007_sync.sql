-- What the syncs of other systems' data have loaded.

CREATE TABLE app.sync_loads (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source    text NOT NULL,
    table_name text NOT NULL,
    rows      bigint NOT NULL,
    watermark timestamptz,
    seconds   real NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.sync_loads.watermark IS 'The newest time in the rows of the table after the load, where it is loaded by a time.';
CREATE INDEX sync_loads_at ON app.sync_loads (loaded_at);
