"""The code location of the tests: the project's own, and the functions of the tests."""

from dagster import Definitions

import definitions as project  # Not `defs` by name: Dagster accepts one Definitions per module.
from runyard import BatchIOManager
from tests.functions import jobs, schedules, sensors

defs = Definitions.merge(
    project.defs,
    Definitions(
        jobs=jobs,
        sensors=sensors,
        schedules=schedules,
        resources={"io_manager": BatchIOManager()},
    ),
)
