-- Block ranges instead of trees: rows come in the order of these times, and an insert pays next to nothing.
CREATE INDEX events_ts ON runyard.events USING brin (ts) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX invocations_created_at ON runyard.invocations USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
