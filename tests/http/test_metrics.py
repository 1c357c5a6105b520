"""`GET /metrics` of a web process: what it counts, and what it tells of the processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from runyard import Event, send
from runyard.functions.registry import Function
from tests.conftest import Publish
from tests.tables import empty_tables
from tests.web_process import WebProcess

# What docs/monitoring.md lists, and what the process collector adds.
PAGE = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"


@pytest.fixture(autouse=True)
def shipped(web: WebProcess, publish_functions: Publish) -> Iterator[Function]:
    """A function whose events have not been taken by anybody."""
    empty_tables("runyard.workers")
    function = Function("ship", "ship_job", ("shop/ordered",))
    publish_functions(function)
    yield function
    empty_tables("runyard.workers")


def scrape(web: WebProcess) -> dict[str, Metric]:
    text = web.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_it_counts_the_events_of_every_process(web: WebProcess) -> None:
    send([Event("shop/ordered"), Event("shop/unheard")])
    received = samples(scrape(web)["runyard_events_received"])
    assert received == {("shop/ordered",): 1, ("other",): 1}


def test_a_counter_never_goes_back_from_one_scrape_to_the_next(web: WebProcess) -> None:
    for count in range(1, 4):
        send("shop/ordered")
        assert samples(scrape(web)["runyard_events_received"]) == {("shop/ordered",): count}


def test_it_tells_which_checks_pass(web: WebProcess) -> None:
    checks = samples(scrape(web)["runyard_check"])
    assert checks[("database",)] == 1
    assert checks[("workers",)] == 0


def test_it_tells_of_the_pool_the_database_and_the_process(web: WebProcess) -> None:
    families = scrape(web)
    assert samples(families["runyard_pool_connections_allowed"]) == {(): 20}
    assert sum(samples(families["runyard_database_sessions"]).values()) >= 1
    assert samples(families["process_resident_memory_bytes"])[()] > 1e6
