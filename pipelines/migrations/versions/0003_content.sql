-- Generated content, and every call of a text provider.

CREATE TABLE app.content (
    id              text PRIMARY KEY,
    event_id        text NOT NULL,
    user_id         text,
    topic           text NOT NULL,
    kind            text NOT NULL,
    language        text NOT NULL,
    status          text NOT NULL CHECK (status IN ('complete', 'needs review')),
    outline         jsonb NOT NULL,
    text            text NOT NULL,
    provider        text NOT NULL,
    model           text NOT NULL,
    offline         boolean NOT NULL,
    prompt_versions text[] NOT NULL,
    usage           jsonb NOT NULL,
    remarks         text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN app.content.remarks IS 'What the check has found: a wrong language, a length far from the wanted one, a sentence without an end.';
CREATE INDEX content_user ON app.content (user_id, created_at);

CREATE TABLE app.ai_calls (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    user_id       text,
    purpose       text NOT NULL,
    provider      text NOT NULL,
    model         text NOT NULL,
    status        text NOT NULL,
    finish_reason text,
    prompt_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost          numeric(14, 8),
    seconds       real NOT NULL,
    error         text
);
COMMENT ON COLUMN app.ai_calls.cost IS 'US dollars by the price table of its time; NULL where that has no price of the model.';
CREATE INDEX ai_calls_at ON app.ai_calls (at);
CREATE INDEX ai_calls_user ON app.ai_calls (user_id, at) WHERE user_id IS NOT NULL;
