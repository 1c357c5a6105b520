"""The tags that link a Dagster run to its function, batch and event."""

FUNCTION = "runyard/function"
BATCH = "runyard/batch"
EVENT = "runyard/event"
CONTINUES = "runyard/continues"
