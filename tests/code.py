"""The code location of the tests: the project's own, and the functions of the tests."""

from dagster import Definitions

from pipelines.definitions import defs as project
from tests.functions import breaking, breaking_sensor, steps, steps_sensor

defs = Definitions(
    jobs=[*(project.jobs or []), steps, breaking], sensors=[*(project.sensors or []), steps_sensor, breaking_sensor], resources=project.resources
)
