"""The tags that link a Dagster run to its function, batch and event, and mark our sensors."""

FUNCTION = "runyard/function"
BATCH = "runyard/batch"
EVENT = "runyard/event"
CONTINUES = "runyard/continues"
# The application that serves the function of a job, a sensor or a run, and the function's id there.
APP = "runyard/app"
SLUG = "runyard/app-function"
# On a sensor: what it is for. A sensor without it is the user's own, or one for ended runs.
KIND = "runyard/kind"
FUNCTION_SENSOR = "function"
MAINTENANCE_SENSOR = "maintenance"  # under stock Dagster; our daemon does not evaluate it
# In a sensor's metadata: the names of its functions.
FUNCTIONS = "functions"
