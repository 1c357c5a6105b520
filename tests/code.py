"""The code location of the tests: the project's own, and the functions of the tests."""

import definitions as project  # Not `defs` by name: Dagster accepts one Definitions per module.
from runyard import BatchIOManager, definitions
from tests import functions

defs = definitions(
    functions, project.defs, resources={"slow": functions.slow, "io_manager": BatchIOManager()}
)
