"""The code location of the tests: the project's own, and the functions of the tests."""

from dagster import Definitions

import definitions as project  # Not `defs` by name: Dagster accepts one Definitions per module.
from tests.functions import jobs, schedules, sensors

defs = Definitions(
    jobs=[*(project.defs.jobs or []), *jobs],
    sensors=[*(project.defs.sensors or []), *sensors],
    schedules=[*(project.defs.schedules or []), *schedules],
    assets=project.defs.assets,
    asset_checks=project.defs.asset_checks,
    resources=project.defs.resources,
)
