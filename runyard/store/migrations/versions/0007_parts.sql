-- The parts of an invocation: one for each run that it left unfinished. One that went through at once has none.

CREATE TABLE runyard.parts (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    run_id        text NOT NULL,
    status        text NOT NULL CHECK (status IN ('queued', 'sleeping', 'waiting', 'lost', 'failed', 'cancelled')),
    error         jsonb,
    ended_at      timestamptz NOT NULL DEFAULT runyard.now()
);
COMMENT ON TABLE runyard.parts IS 'What a run did of an invocation that went on in another one; the last part is in the invocation itself.';
COMMENT ON COLUMN runyard.parts.status IS 'How it left the run: queued for another attempt, parked, lost with its worker, or failed or cancelled and taken up again.';
CREATE INDEX parts_invocation ON runyard.parts (invocation_id, id);

-- As before, and the end that is taken back is kept as a part. (by invocations_pkey)
CREATE OR REPLACE FUNCTION runyard.requeue_v1(ids bigint[]) RETURNS SETOF bigint LANGUAGE sql AS $$
    WITH ended AS (
        INSERT INTO runyard.parts (invocation_id, run_id, status, error, ended_at)
        SELECT id, run_id, status, error, finished_at FROM runyard.invocations
        WHERE id = ANY (ids) AND status IN ('failed', 'cancelled') AND run_id IS NOT NULL
    )
    UPDATE runyard.invocations SET status = 'queued', due_at = runyard.now(), finished_at = NULL, output = NULL, error = NULL,
        cancel_requested_at = NULL, expires_at = NULL, dismissed_at = NULL, admitted = true,
        lane = CASE WHEN keys IS NOT NULL THEN array_to_string(keys[1:(functions.flow->>'lanes')::integer], chr(31)) || chr(30) END
    FROM runyard.functions
    WHERE id = ANY (ids) AND functions.name = invocations.function AND status IN ('queued', 'failed', 'cancelled')
    RETURNING id
$$;

-- Run now what is queued for later, and wake what sleeps; limits still hold. Gives the ids of those that had time left to wait.
-- (by invocations_pkey, waits_invocation_id_step_key)
CREATE FUNCTION runyard.run_now_v1(ids bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    hurried bigint[];
    woken text;
BEGIN
    PERFORM runyard.lock_waits_v1();
    PERFORM FROM runyard.invocations WHERE id = ANY (ids) AND status IN ('queued', 'sleeping', 'waiting') ORDER BY id FOR UPDATE;
    WITH awake AS (
        UPDATE runyard.waits SET resolved_at = runyard.now()
        FROM runyard.invocations
        WHERE invocations.id = ANY (ids) AND invocations.status IN ('sleeping', 'waiting')
            AND waits.invocation_id = invocations.id AND kind = 'sleep' AND resolved_at IS NULL
        RETURNING waits.invocation_id
    ),
    due AS (
        UPDATE runyard.invocations SET due_at = runyard.now()
        WHERE id = ANY (ids) AND due_at > runyard.now() AND (status = 'queued' OR id IN (SELECT invocation_id FROM awake))
        RETURNING id, function
    )
    SELECT array_agg(id), string_agg(DISTINCT function, ',') INTO hurried, woken FROM due;
    IF hurried IS NOT NULL THEN
        PERFORM runyard.wake_v1(woken);
    END IF;
    RETURN QUERY SELECT unnest(hurried);
END $$;

-- The door for plain SQL.
CREATE FUNCTION runyard.run_now(invocation bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM runyard.run_now_v1(ARRAY[invocation]))
$$;
