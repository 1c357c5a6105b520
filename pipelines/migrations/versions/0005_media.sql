-- Pictures and videos with what was made of them.

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
COMMENT ON COLUMN app.media.original IS 'The key of the original in the media store; the manifest has those of its variants.';
COMMENT ON COLUMN app.media.placeholder IS 'A BlurHash.';
CREATE INDEX media_created_at ON app.media (created_at);
