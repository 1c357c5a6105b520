"""The tags that link a Dagster run with the event table."""

FUNCTION = "runyard/function"
BATCH = "runyard/batch"
EVENT = "runyard/event"
CONTINUES = "runyard/continues"
