"""A code location with one function, whose resource is not created before a file is there."""

import os
import time
from pathlib import Path

from dagster import ResourceParam, resource

from runyard import Item, definitions, function

GATE = "TESTS_GATE"


@resource
def gated(_: object) -> str:
    """Wait for the file that TESTS_GATE names."""
    while not Path(os.environ[GATE]).exists():
        time.sleep(0.05)
    return "open"


@function("test/slow_start")
def slow_start(item: Item, gated: ResourceParam[str]) -> str:
    """Return the value of a resource that takes long to create."""
    return gated


defs = definitions(slow_start, resources={"gated": gated})
