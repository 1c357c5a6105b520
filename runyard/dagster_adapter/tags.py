"""Names in Dagster: the tags that link a run to its function, batch and event; a sensor."""

FUNCTION = "runyard/function"
BATCH = "runyard/batch"
EVENT = "runyard/event"
CONTINUES = "runyard/continues"

# The sensor of the maintenance under stock Dagster, which our daemon does not evaluate.
MAINTENANCE_SENSOR = "runyard_maintenance"
