-- The tables of the schema `runyard`, with their indexes. Functions and triggers are in the other
-- files of this folder.

CREATE TABLE runyard.schemas (
    name        text PRIMARY KEY,
    revision    text NOT NULL,
    oldest_code text,
    version     text NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE runyard.schemas IS
    'What the last migration of a schema leaves, for code that is older than it: read before '
    'anything else, so this table stays as it is.';
COMMENT ON COLUMN runyard.schemas.oldest_code IS
    'The oldest revision whose code works on the schema; NULL: its migrations do not say.';
COMMENT ON COLUMN runyard.schemas.version IS
    'The version of Runyard that ran the migration.';

CREATE TABLE runyard.functions (
    name              text PRIMARY KEY,
    job               text NOT NULL,
    triggers          text[] NOT NULL,
    exact             text[] NOT NULL DEFAULT '{}',
    has_patterns      boolean NOT NULL DEFAULT false,
    max_batch         integer NOT NULL CHECK (max_batch BETWEEN 1 AND 5000),
    priority          smallint NOT NULL DEFAULT 0,
    attempts          smallint NOT NULL CHECK (attempts >= 1),
    delays            float8[] NOT NULL DEFAULT '{15}',
    jitter            float8 NOT NULL DEFAULT 0.1,
    flow              jsonb NOT NULL DEFAULT '{}',
    key_paths         jsonb NOT NULL DEFAULT '[]',
    uses_lanes        boolean NOT NULL DEFAULT false,
    needs_admission   boolean NOT NULL DEFAULT false,
    generation        integer NOT NULL DEFAULT 1,
    last_lane         text COLLATE "C" NOT NULL DEFAULT '',
    location          text,
    active            boolean NOT NULL DEFAULT true,
    registered_at     timestamptz NOT NULL DEFAULT now(),
    paused_at         timestamptz,
    removed_at        timestamptz,
    removed_snapshot  pg_snapshot,
    restored_at       timestamptz,
    restored_snapshot pg_snapshot
);
COMMENT ON TABLE runyard.functions IS
    'A function: a job and the event names that start it. Written when the code is loaded; '
    'inactive once the code no longer has it.';
COMMENT ON COLUMN runyard.functions.exact IS
    'Event names that start it whatever their data: the fast path of the fan-out.';
COMMENT ON COLUMN runyard.functions.has_patterns IS
    'Whether it also has wildcards, filters or conditions, which are in runyard.triggers.';
COMMENT ON COLUMN runyard.functions.delays IS
    'Seconds before the second, third ... attempt; changed at random by up to the share `jitter`.';
COMMENT ON COLUMN runyard.functions.flow IS
    'Its flow control, as written by runyard/functions/flow_control.py.';
COMMENT ON COLUMN runyard.functions.key_paths IS
    'The paths into the event, and expressions over it, that its flow control uses (see keys_v1); '
    'those that make up the lane come first.';
COMMENT ON COLUMN runyard.functions.uses_lanes IS
    'Its invocations are claimed round-robin from lanes, one lane for each value of its keys.';
COMMENT ON COLUMN runyard.functions.needs_admission IS
    'Its invocations are checked against its admission rules (idempotency, rate limit, debounce) '
    'before they queue: some are skipped or postponed.';
COMMENT ON COLUMN runyard.functions.generation IS
    'Incremented whenever the definition of its keys or lanes changes.';
COMMENT ON COLUMN runyard.functions.last_lane IS
    'The lane that was served last; the next claim starts after it.';
COMMENT ON COLUMN runyard.functions.location IS
    'The code location that owns it: only a publication of that location can retire it.';
COMMENT ON COLUMN runyard.functions.removed_at IS
    'When the code last stopped having it; removed_snapshot holds what had been sent by then.';
COMMENT ON COLUMN runyard.functions.restored_at IS
    'When the code had it again, until every event sent in between has been processed; '
    'restored_snapshot holds the transactions open at that time.';

CREATE TABLE runyard.publications (
    location text NOT NULL,
    digest   text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (location, digest)
);
COMMENT ON TABLE runyard.publications IS
    'Every version of a code location, identified by the functions it has, and when it was last '
    'deployed. The latest one decides which functions there are.';
COMMENT ON COLUMN runyard.publications.seen_at IS
    'When a code server of this version last said that it runs.';

CREATE TABLE runyard.triggers (
    function  text NOT NULL,
    event     text NOT NULL,
    wildcard  boolean NOT NULL DEFAULT false,
    filter    jsonpath,
    condition jsonb
);
COMMENT ON TABLE runyard.triggers IS
    'Every trigger of every function: an event name or a LIKE pattern, and a filter on the event.';
COMMENT ON COLUMN runyard.triggers.condition IS
    'An expression over the event, as a tree (runyard/syntax/expressions.py).';
CREATE INDEX triggers_function ON runyard.triggers (function);
CREATE INDEX triggers_event ON runyard.triggers (event) WHERE NOT wildcard;
CREATE INDEX triggers_wildcard ON runyard.triggers (event) WHERE wildcard;

CREATE TABLE runyard.events (
    id              text PRIMARY KEY DEFAULT runyard.ulid_v1(),
    idempotency_key text,
    sender          text NOT NULL DEFAULT '',
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 512),
    data            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    "user"          jsonb,
    v               text,
    ts              timestamptz NOT NULL DEFAULT runyard.now_v1(),
    received_at     timestamptz NOT NULL DEFAULT runyard.now_v1(),
    source          text NOT NULL DEFAULT 'sql',
    target          text,
    caused_by       bigint,
    trace           text,
    meta            jsonb,
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id()
);
COMMENT ON TABLE runyard.events IS
    'What applications sent. An INSERT enqueues: the trigger fan_out creates the invocations in '
    'the same transaction.';
COMMENT ON COLUMN runyard.events.idempotency_key IS
    'The id given by the sender. Another event with it from the same sender and of the same name '
    'starts nothing for 24 h; after that the key is free again.';
COMMENT ON COLUMN runyard.events.sender IS
    'Who sent it: a tenant, the id of an API key, or a signed webhook. Empty for anything with '
    'direct database access (Python, SQL, steps).';
COMMENT ON COLUMN runyard.events.ts IS
    'When it happened, or, if in the future, when it is due.';
COMMENT ON COLUMN runyard.events.target IS
    'The only function it is for, whatever the triggers say; NULL: all functions it triggers.';
COMMENT ON COLUMN runyard.events.caused_by IS
    'The invocation whose step sent it.';
COMMENT ON COLUMN runyard.events.trace IS
    'The W3C traceparent of the request that sent it.';
COMMENT ON COLUMN runyard.events.meta IS
    'What the Inngest SDKs send with an event besides its data.';
COMMENT ON COLUMN runyard.events.xid IS
    'The transaction that sent it: tells whether it was committed before or after a given '
    'snapshot, however late the commit was.';
CREATE UNIQUE INDEX events_idempotency_key ON runyard.events (idempotency_key, name, sender)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX events_received_at ON runyard.events (received_at, id);
CREATE INDEX events_name ON runyard.events (name, xid);
-- The history of one event name, newest first, however rare or common the name is.
CREATE INDEX events_name_received ON runyard.events (name, received_at, id);
CREATE INDEX events_caused_by ON runyard.events (caused_by) WHERE caused_by IS NOT NULL;
-- A block range index: rows arrive in the order of this time, and it costs an insert next to
-- nothing.
CREATE INDEX events_ts ON runyard.events
    USING brin (ts) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE runyard.missed_events (
    id text, name text, data jsonb, "user" jsonb, v text, ts timestamptz, target text
);
COMMENT ON TABLE runyard.missed_events IS
    'Always empty: rows inserted here are fanned out to their target by the same trigger as '
    'events, and deleted again.';

-- No foreign keys to events and functions: the trigger is the only writer of new rows, and a check
-- for each row would be a tenth of the cost of an insert.
CREATE TABLE runyard.invocations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text NOT NULL,
    function    text NOT NULL,
    status      text NOT NULL DEFAULT 'queued' CHECK (status IN (
        'queued', 'claimed', 'running', 'sleeping', 'waiting', 'grouped',
        'succeeded', 'failed', 'cancelled', 'skipped')),
    attempt     smallint NOT NULL DEFAULT 0,
    crashes     smallint NOT NULL DEFAULT 0,
    suspect     text CHECK (suspect IN ('bisecting', 'isolated')),
    priority    smallint NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT runyard.now_v1(),
    keys        text[],
    generation  integer NOT NULL DEFAULT 1,
    dispatch    integer NOT NULL DEFAULT 0,
    lane        text COLLATE "C",
    admitted    boolean NOT NULL DEFAULT true,
    batch_id    text,
    run_id      text,
    output      jsonb,
    error       jsonb,
    replay_of   bigint,
    leader_id   bigint,
    since       pg_snapshot,
    created_at  timestamptz NOT NULL DEFAULT runyard.now_v1(),
    started_at  timestamptz,
    finished_at timestamptz,
    expires_at  timestamptz,
    cancel_requested_at timestamptz,
    dismissed_at        timestamptz
);
COMMENT ON TABLE runyard.invocations IS
    'One event for one function.';
COMMENT ON COLUMN runyard.invocations.attempt IS
    'Attempts started of its current step, not counting those that ended with a lost worker while '
    'other invocations were in the run.';
COMMENT ON COLUMN runyard.invocations.crashes IS
    'Workers lost while running it since its last outcome. From the second on it is a suspect and '
    'runs apart from the others.';
COMMENT ON COLUMN runyard.invocations.suspect IS
    'What is known about a suspect: it is in the group that is being bisected for the one that '
    'kills its worker (bisecting), it was alone in the run that was lost (isolated), or nothing '
    '(NULL).';
COMMENT ON COLUMN runyard.invocations.keys IS
    'The values in its event at the key paths of its function; NULL if the function has no lanes.';
COMMENT ON COLUMN runyard.invocations.generation IS
    'The generation of its function that its keys were made for: a sender whose transaction began '
    'before a deploy makes the keys of the previous code.';
COMMENT ON COLUMN runyard.invocations.dispatch IS
    'Counts the runs that have begun to work on it, and the further calls of its application in '
    'the same run: what an earlier one sends late is refused.';
COMMENT ON COLUMN runyard.invocations.lane IS
    'Set while it is due and waits for the turn of its lane.';
COMMENT ON COLUMN runyard.invocations.admitted IS
    'False until the admission rules of its function (idempotency, rate limit, debounce) have been '
    'applied to it.';
COMMENT ON COLUMN runyard.invocations.leader_id IS
    'The invocation whose run has the events of both, for a function that takes a batch of events '
    'together. A leader leads itself; the others are `grouped` until it ends, and end as it does. '
    'Only the leader is claimed, has steps, and holds the output.';
COMMENT ON COLUMN runyard.invocations.since IS
    'What was committed when its event was sent, or when its current run segment began: later '
    'events count for the waits it registers.';
COMMENT ON COLUMN runyard.invocations.expires_at IS
    'When its timeout cancels it: first the timeout to start, then the timeout to finish.';
COMMENT ON COLUMN runyard.invocations.dismissed_at IS
    'When a failure was dismissed or replayed; until then it is a dead letter.';

-- What an invocation has come to: a leader, for the others of its group. (by invocations_pkey)
CREATE FUNCTION runyard.output_of_v1(invocation bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT output FROM runyard.invocations WHERE id = invocation
$$;

CREATE INDEX invocations_event ON runyard.invocations (event_id);
CREATE INDEX invocations_leader ON runyard.invocations (leader_id, id)
    WHERE leader_id IS NOT NULL;
CREATE INDEX invocations_function ON runyard.invocations (function, created_at, id);
CREATE INDEX invocations_failed ON runyard.invocations (function, id)
    WHERE status = 'failed' AND dismissed_at IS NULL;
-- A block range index, as events_ts.
CREATE INDEX invocations_created_at ON runyard.invocations
    USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX invocations_expiring ON runyard.invocations (expires_at)
    WHERE expires_at IS NOT NULL
        AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting')
        AND cancel_requested_at IS NULL;

-- The queues. All are partial, so that a claim costs the same however many rows are finished or
-- suspended. First, functions without lanes; suspects come after everything else, so that the
-- healthy invocations of a priority are one range of the index.
CREATE INDEX invocations_due ON runyard.invocations
    (function, (CASE WHEN crashes < 2 THEN 0 ELSE 1 END), priority DESC, due_at, id)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NULL;
-- Functions with lanes: what is not admitted yet, what is not due yet, and what waits in a lane.
CREATE INDEX invocations_arrived ON runyard.invocations (function, due_at, id)
    WHERE NOT admitted AND status = 'queued';
CREATE INDEX invocations_delayed ON runyard.invocations (function, due_at, id)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL AND lane IS NULL
        AND admitted;
CREATE INDEX invocations_lane ON runyard.invocations (function, lane, priority DESC, due_at, id)
    WHERE lane IS NOT NULL;
CREATE INDEX invocations_keyed ON runyard.invocations (function, generation)
    WHERE status IN ('queued', 'sleeping', 'waiting') AND keys IS NOT NULL;
-- Suspects, with and without lanes: those that wait, those that run, in the order in which they are
-- taken (bisecting first, then those nothing is known about, then isolated), and those that are
-- being bisected.
CREATE INDEX invocations_crashed ON runyard.invocations (function, due_at, id)
    WHERE crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting');
CREATE INDEX invocations_crashing ON runyard.invocations (function)
    WHERE crashes >= 2 AND status IN ('claimed', 'running');
CREATE INDEX invocations_suspects ON runyard.invocations
    (function, (CASE suspect WHEN 'bisecting' THEN 0 WHEN 'isolated' THEN 2 ELSE 1 END), due_at, id)
    WHERE crashes >= 2 AND status IN ('queued', 'sleeping', 'waiting');
CREATE INDEX invocations_bisecting ON runyard.invocations (function)
    WHERE suspect = 'bisecting'
        AND status IN ('queued', 'claimed', 'running', 'sleeping', 'waiting');

CREATE TABLE runyard.run_segments (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    run_id        text NOT NULL,
    status        text NOT NULL CHECK (
        status IN ('queued', 'sleeping', 'waiting', 'lost', 'failed', 'cancelled')),
    error         jsonb,
    ended_at      timestamptz NOT NULL DEFAULT runyard.now_v1()
);
COMMENT ON TABLE runyard.run_segments IS
    'What a run did for an invocation that continued in another run. The last segment is in the '
    'invocation itself, so that one that finishes in its first run has no rows here.';
COMMENT ON COLUMN runyard.run_segments.status IS
    'How the invocation left the run: queued for another attempt, suspended, lost with its worker, '
    'or failed or cancelled and then requeued.';
CREATE INDEX run_segments_invocation ON runyard.run_segments (invocation_id, id);

-- Numbers results in the order in which they were recorded: the clocks of two workers may differ by
-- more than a step takes.
CREATE SEQUENCE runyard.steps_number AS bigint;

CREATE TABLE runyard.steps (
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    attempt       smallint NOT NULL,
    tries         smallint NOT NULL DEFAULT 1,
    run_id        text,
    output        jsonb,
    error         jsonb,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL,
    number        bigint NOT NULL DEFAULT nextval('runyard.steps_number'),
    dispatch      integer,
    PRIMARY KEY (invocation_id, step)
);
ALTER SEQUENCE runyard.steps_number OWNED BY runyard.steps.number;
COMMENT ON TABLE runyard.steps IS
    'The result of a step of an invocation: its output, which is never produced again, or the '
    'error of its last attempt.';
COMMENT ON COLUMN runyard.steps.tries IS
    'How often this step was tried for this invocation.';
COMMENT ON COLUMN runyard.steps.number IS
    'The order in which results were recorded.';
COMMENT ON COLUMN runyard.steps.dispatch IS
    'In which dispatch of the invocation its application recorded it, during a call. NULL for what '
    'came with the answer, and for functions of the project''s code.';

CREATE TABLE runyard.step_logs (
    id            bigint GENERATED ALWAYS AS IDENTITY,
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    run_id        text NOT NULL,
    attempt       smallint NOT NULL,
    started_at    timestamptz NOT NULL,
    lines         jsonb NOT NULL,
    dropped       integer NOT NULL DEFAULT 0,
    PRIMARY KEY (invocation_id, step, run_id)
);
COMMENT ON TABLE runyard.step_logs IS
    'What a step printed and logged for an invocation in a run: its first lines.';
COMMENT ON COLUMN runyard.step_logs.lines IS
    'An array of lines: [seconds since the epoch, stdout or stderr or a log level, text].';
COMMENT ON COLUMN runyard.step_logs.dropped IS
    'How many lines more there were.';

CREATE TABLE runyard.run_output (
    key      text COLLATE "C" NOT NULL,
    stream   text NOT NULL CHECK (stream IN ('out', 'err')),
    start    integer NOT NULL,
    content  bytea NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT runyard.now_v1(),
    PRIMARY KEY (key, stream, start)
);
CREATE INDEX run_output_saved ON runyard.run_output (saved_at);
COMMENT ON TABLE runyard.run_output IS
    'A piece of what a Dagster run printed, for the Dagster UI of any host: each is added when it '
    'has been printed, and never changes.';
COMMENT ON COLUMN runyard.run_output.key IS
    'Dagster''s log key, percent-encoded and joined by slashes: it begins with the run''s id. The '
    'logs of ticks and backfills have keys of other forms.';
COMMENT ON COLUMN runyard.run_output.stream IS
    'Standard output (out) or standard error (err).';
COMMENT ON COLUMN runyard.run_output.start IS
    'Where the piece begins in the stored output of its stream, in bytes.';

CREATE TABLE runyard.progress (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    percent       real NOT NULL CHECK (percent BETWEEN 0 AND 100),
    text          text NOT NULL,
    at            timestamptz NOT NULL DEFAULT runyard.now_v1(),
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    written       text,
    position      integer
);
COMMENT ON TABLE runyard.progress IS
    'The progress that steps report while they run.';
COMMENT ON COLUMN runyard.progress.written IS
    'A piece of the text that the step is writing, if it is not a report. Kept for a day.';
COMMENT ON COLUMN runyard.progress.position IS
    'How many characters of the text come before the piece. An attempt begins again with 0.';
CREATE INDEX progress_invocation ON runyard.progress (invocation_id, id);
CREATE INDEX progress_written ON runyard.progress (at) WHERE written IS NOT NULL;

-- Messages are kept for seconds: nothing is lost by a crash that would not be lost anyway.
CREATE UNLOGGED TABLE runyard.messages (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    topic   text NOT NULL,
    message text NOT NULL,
    at      timestamptz NOT NULL DEFAULT runyard.now_v1(),
    xid     xid8 NOT NULL DEFAULT pg_current_xact_id()
);
COMMENT ON TABLE runyard.messages IS
    'What applications have published to channels, until all web processes have read it.';
COMMENT ON COLUMN runyard.messages.message IS
    'JSON as subscribers get it. Not jsonb, which cannot store every text.';
CREATE INDEX messages_xid ON runyard.messages (xid);

-- A lease is valid from the time at which it is written, not from the start of its transaction.
-- Pages keep room for the versions that heartbeats make, which then stay out of the indexes.
CREATE TABLE runyard.batches (
    id            text PRIMARY KEY,
    function      text NOT NULL,
    status        text NOT NULL DEFAULT 'claimed'
        CHECK (status IN ('claimed', 'running', 'finished', 'lost')),
    invocations   bigint[] NOT NULL,
    settled       bigint[] NOT NULL DEFAULT '{}',
    cancelled     bigint[] NOT NULL DEFAULT '{}',
    dropped_by_op jsonb NOT NULL DEFAULT '{}',
    slots         jsonb,
    run_id        text,
    worker        text,
    claimed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    launched_at   timestamptz,
    started_at    timestamptz,
    heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    ended_at      timestamptz,
    cancel_requested_at timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE runyard.batches IS
    'A claim of invocations: a lease for one Dagster run. Its id is the fencing token of every '
    'write that the run makes.';
COMMENT ON COLUMN runyard.batches.settled IS
    'Those of its invocations that left it before its end, with their outcome: another batch may '
    'have them by now, and nothing is written for them under this lease.';
COMMENT ON COLUMN runyard.batches.cancelled IS
    'Invocations that were cancelled while it held them.';
COMMENT ON COLUMN runyard.batches.dropped_by_op IS
    'The invocations that had dropped out of it by the end of each op, for ops in other processes.';
COMMENT ON COLUMN runyard.batches.slots IS
    'What it holds of each concurrency limit while it is open: [{scope, key, n}]. An invocation '
    'that is settled before the end frees its share.';
COMMENT ON COLUMN runyard.batches.launched_at IS
    'When its run was handed to the broker. NULL: only claimed so far, and reclaimed if that takes '
    'too long.';
COMMENT ON COLUMN runyard.batches.ended_at IS
    'When its process was free again: a run continues for a moment after its batch is settled.';
-- Without the time of the heartbeat: no index has it, so that a heartbeat changes none.
CREATE INDEX batches_open ON runyard.batches (status)
    WHERE status IN ('claimed', 'running');
CREATE INDEX batches_run ON runyard.batches (run_id);
CREATE INDEX batches_ending ON runyard.batches (finished_at)
    WHERE ended_at IS NULL AND status IN ('finished', 'lost');

CREATE TABLE runyard.failed_launches (
    function text PRIMARY KEY,
    failures integer NOT NULL CHECK (failures >= 1),
    until    timestamptz NOT NULL,
    error    jsonb NOT NULL
);
COMMENT ON TABLE runyard.failed_launches IS
    'Functions whose runs fail to start: no broker, no disk, no such job in the worker. The row is '
    'deleted when a run starts.';
COMMENT ON COLUMN runyard.failed_launches.failures IS
    'Failures in a row; those that happen while the function is backing off count as one.';
COMMENT ON COLUMN runyard.failed_launches.until IS
    'Nothing is claimed for the function before; then one batch at a time, until one starts.';

CREATE TABLE runyard.workers (
    name          text PRIMARY KEY,
    host          text NOT NULL,
    pid           integer NOT NULL,
    pid_namespace text,
    slots         integer NOT NULL CHECK (slots >= 0),
    remote        boolean NOT NULL DEFAULT false,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE runyard.workers IS
    'The warm workers that are alive, and how many runs each can execute at a time.';
COMMENT ON COLUMN runyard.workers.slots IS
    'How many runs it executes at a time; while it drains, how many are left.';
COMMENT ON COLUMN runyard.workers.remote IS
    'Whether it calls functions of applications, and executes no others.';
COMMENT ON COLUMN runyard.workers.pid_namespace IS
    'Where its process ids are valid: the boot of a machine and the PID namespace.';

CREATE TABLE runyard.waits (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id bigint NOT NULL,
    step          text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('sleep', 'event', 'invoke', 'cancel', 'signal')),
    event         text,
    signal        text,
    match_paths   jsonb NOT NULL DEFAULT '[]',
    match_value   text NOT NULL DEFAULT '',
    filter        jsonpath,
    condition     jsonb,
    since         pg_snapshot,
    own_event     text,
    own_event_xid xid8,
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at    timestamptz NOT NULL DEFAULT runyard.now_v1(),
    expires_at    timestamptz NOT NULL,
    resolved_at   timestamptz,
    result        jsonb,
    UNIQUE (invocation_id, step)
);
COMMENT ON TABLE runyard.waits IS
    'What an invocation waits for: a time, an event, another function, a signal, or (kind cancel) '
    'the event that cancels it.';
COMMENT ON COLUMN runyard.waits.signal IS
    'The signal that resolves it; NULL if another wait for the signal has taken its place.';
COMMENT ON COLUMN runyard.waits.match_paths IS
    'The paths in the awaited event that are compared; match_value is what they must hold.';
COMMENT ON COLUMN runyard.waits.condition IS
    'An expression over the awaited event (async), as a tree: what is left of a condition without '
    'its pairs, with the values of the own event.';
COMMENT ON COLUMN runyard.waits.since IS
    'Only events that were not committed in this snapshot count.';
COMMENT ON COLUMN runyard.waits.own_event IS
    'The event of the invocation itself, if it has the awaited name: neither it nor what its '
    'transaction (own_event_xid) sent before it resolves the wait.';
CREATE INDEX waits_event ON runyard.waits (event, match_paths, match_value)
    WHERE event IS NOT NULL AND resolved_at IS NULL;
-- A signal goes to one wait.
CREATE UNIQUE INDEX waits_signal ON runyard.waits (signal)
    WHERE signal IS NOT NULL AND resolved_at IS NULL;

CREATE TABLE runyard.watermark (snapshot pg_snapshot NOT NULL);
COMMENT ON TABLE runyard.watermark IS
    'One row: the events that waits have been matched with so far.';
INSERT INTO runyard.watermark VALUES (pg_current_snapshot());

CREATE TABLE runyard.flow_control_state (
    id            text COLLATE "C" PRIMARY KEY
        GENERATED ALWAYS AS (kind || chr(31) || function || chr(31) || key) STORED,
    function      text NOT NULL,
    kind          text NOT NULL,
    key           text NOT NULL,
    until         timestamptz NOT NULL,
    log           timestamptz[] NOT NULL DEFAULT '{}',
    invocation_id bigint,
    clock         timestamptz
        GENERATED ALWAYS AS (CASE WHEN kind = 'throttle' THEN until END) STORED
) WITH (fillfactor = 80);
COMMENT ON TABLE runyard.flow_control_state IS
    'What flow control remembers for a key: the clock of a throttle, the times of a rate limit, '
    'the invocation that a debounce or a singleton refers to.';
COMMENT ON COLUMN runyard.flow_control_state.id IS
    'A single column to look up by: with three, PostgreSQL picks the other index while it has no '
    'statistics, and reads all keys of a function for each.';
COMMENT ON COLUMN runyard.flow_control_state.until IS
    'For a throttle its theoretical arrival time; for the others the time from which the row no '
    'longer means anything.';
COMMENT ON COLUMN runyard.flow_control_state.clock IS
    'That of a throttle, NULL for the others: they move `until` with every event, which then '
    'changes no index.';
CREATE INDEX flow_control_state_clock ON runyard.flow_control_state (function, clock)
    WHERE clock IS NOT NULL;

CREATE TABLE runyard.requests (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation bigint NOT NULL,
    action     text NOT NULL CHECK (action IN ('cancel', 'run now')),
    reason     text,
    deferred   boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE runyard.requests IS
    'What open transactions have requested for invocations, until they commit; otherwise empty. '
    'However long such a transaction stays open, it locks nothing until then.';
COMMENT ON COLUMN runyard.requests.deferred IS
    'It could not be applied in the commit of its transaction, and is applied by the next '
    'maintenance.';

CREATE TABLE runyard.bulks (
    id          text PRIMARY KEY,
    action      text NOT NULL CHECK (action IN ('replay', 'cancel', 'dismiss')),
    selection   jsonb NOT NULL,
    upto        bigint NOT NULL,
    reached     bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL,
    done        bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
COMMENT ON TABLE runyard.bulks IS
    'A bulk replay, cancel or dismissal: how far it has got, so that it can resume after a stop.';

CREATE TABLE runyard.alerts (
    target  text NOT NULL,
    source  text NOT NULL,
    seen    bigint NOT NULL,
    since   timestamptz NOT NULL,
    sent_at timestamptz,
    PRIMARY KEY (target, source)
);
COMMENT ON TABLE runyard.alerts IS
    'Which failures each receiver of alerts has been told of. The row without a source says when '
    'failures were last looked for.';
COMMENT ON COLUMN runyard.alerts.target IS
    'A hash of the address, which may be a secret.';
COMMENT ON COLUMN runyard.alerts.source IS
    'A function (`function send_email`), or the runs of jobs that are not functions (`runs`).';
COMMENT ON COLUMN runyard.alerts.seen IS
    'How many failures of the function there have been; of runs, the number of the last event in '
    'Dagster''s log.';
COMMENT ON COLUMN runyard.alerts.since IS
    'When that was so: what has failed since has not been told.';

CREATE TABLE runyard.keys (
    id          text PRIMARY KEY DEFAULT runyard.ulid_v1(),
    hash        bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    hint        text NOT NULL,
    name        text NOT NULL,
    environment text NOT NULL,
    scopes      text[] NOT NULL
        CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['send', 'read', 'manage']),
    events      text[],
    tenant      text CHECK (length(tenant) BETWEEN 1 AND 100),
    per_second  real CHECK (per_second > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    used_at     timestamptz,
    revoked_at  timestamptz
);
COMMENT ON TABLE runyard.keys IS
    'The keys of the HTTP API. Only their SHA-256 is stored: they are random enough that nothing '
    'slower is needed.';
COMMENT ON COLUMN runyard.keys.hint IS
    'The first characters of a key, to recognise it by.';
COMMENT ON COLUMN runyard.keys.environment IS
    'Only gateways of this environment accept it: those of a copied database elsewhere do not.';
COMMENT ON COLUMN runyard.keys.events IS
    'The event names it may send, with wildcards; NULL: all.';
COMMENT ON COLUMN runyard.keys.tenant IS
    'Keys of the same tenant share their idempotency keys, so that one can replace another; NULL: '
    'shared with none.';
COMMENT ON COLUMN runyard.keys.used_at IS
    'When it was last used, to the minute.';

CREATE VIEW runyard.dead_letters AS
    SELECT invocations.id, invocations.function, invocations.event_id, events.name AS event,
        events.data, invocations.attempt, invocations.error->>'step' AS step,
        invocations.error->>'type' AS type, invocations.error->>'message' AS message,
        invocations.error->>'traceback' AS traceback, invocations.run_id, invocations.created_at,
        invocations.finished_at
    FROM runyard.invocations JOIN runyard.events ON events.id = invocations.event_id
    WHERE invocations.status = 'failed' AND invocations.dismissed_at IS NULL;
COMMENT ON VIEW runyard.dead_letters IS
    'Final failures that were neither replayed nor dismissed.';
