"""The code location of the tests: the project's own, and the functions of the tests."""

from dagster import Definitions

from pipelines import definitions as project  # not its defs by name: Dagster takes one Definitions a module
from tests.functions import breaking, breaking_sensor, spread, spread_sensor, steps, steps_sensor

defs = Definitions(
    jobs=[*(project.defs.jobs or []), steps, breaking, spread],
    sensors=[*(project.defs.sensors or []), steps_sensor, breaking_sensor, spread_sensor],
    resources=project.defs.resources,
)
