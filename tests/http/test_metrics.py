"""`GET /metrics` of a web process, and who asks for it: the dashboard, the alerts, their page."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from runyard import Event, send
from runyard.engine import batch_claims, batch_leases, checkpoints, settlement
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.embedded_access import SUPERUSER
from runyard.store.queries import fetch_all
from tests.conftest import Publish, wait_until
from tests.tables import database_away, empty_tables, hanging_server
from tests.web_process import WebProcess

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = re.compile(r"^\| `(runyard_\w+)` \| (\w+) \|([`\w, ]*)\|", re.MULTILINE)
# A metric in a query, with what its selector compares; and the labels that a query groups by.
METRIC = re.compile(r"\b(runyard_\w+|process_\w+|up)\b(?:\{([^}]*)\})?")
COMPARED = re.compile(r"(\w+)\s*[=!]~?\s*\"")
GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
# Prometheus's default for `scrape_timeout`, in seconds.
OF_A_SCRAPE = 10
OF_PROMETHEUS = {"up": {"job", "instance"}}
OF_EVERY_SERIES = {"job", "instance", "le"}


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


def test_a_key_reads_the_metrics_while_the_database_is_away(
    web: WebProcess, web_database_url: str
) -> None:
    assert web.get("/metrics").status_code == 200
    with database_away(web_database_url):
        wait_until(lambda: samples(scrape(web)["runyard_check"])["database",] == 0, 30)
    wait_until(lambda: web.post("/api/events", {"name": "a/b"}).status_code == 200, 30)
    wait_until(lambda: web.post(f"/e/{web.keys['send']}", {"name": "a/b"}).status_code == 200, 30)
    wait_until(lambda: "runyard_events_received" in scrape(web), 30)


def test_a_database_that_hangs_holds_a_scrape_for_less_than_prometheus_waits(
    web: WebProcess, web_database_url: str
) -> None:
    seconds = []

    def is_noticed() -> bool:
        began = time.monotonic()
        noticed = samples(scrape(web)["runyard_check"])["database",] == 0
        seconds.append(time.monotonic() - began)
        return noticed

    assert not is_noticed()
    with hanging_server(web_database_url):
        wait_until(is_noticed, 60)
        # Long after the last look at the keys and at the database.
        wait_until(lambda: is_noticed() and len(seconds) > OF_A_SCRAPE, 60)
    assert max(seconds) < OF_A_SCRAPE
    wait_until(lambda: "runyard_events_received" in scrape(web), 30)


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


def test_it_counts_the_sessions_of_other_databases_and_roles(
    web: WebProcess, web_database_url: str
) -> None:
    def unknown() -> float:
        return samples(scrape(web)["runyard_database_sessions"]).get(("unknown",), 0)

    before = unknown()
    elsewhere = web_database_url.replace("//runyard@", f"//{SUPERUSER}@").replace(
        "/web?", "/postgres?"
    )
    with psycopg.connect(elsewhere):
        assert unknown() == before + 1


@pytest.fixture
def busy(shipped: Function) -> None:
    """Something of everything that is counted: a worker, a caller, an end, an open batch."""
    with database.connection() as connection:
        for name, remote in (("w", False), ("c", True)):
            fetch_all(
                connection,
                "heartbeat_worker",
                name=name,
                host="h",
                pid=1,
                slots=2,
                pid_namespace="p",
                remote=remote,
            )
    for run in ("run-1", "run-2"):
        send("shop/ordered")
        [claim, *_] = batch_claims.claim(shipped) or []
        batch_leases.begin(claim.batch_id, run)
        if run == "run-1":
            checkpoints.save_steps(claim.batch_id, run, "pack", [(1, 1, "1", None, 1.0, 2.0)])
            settlement.settle(claim.batch_id, run, [Outcome(1, "succeeded")])
    send("shop/ordered")


def labels_of(families: dict[str, Metric]) -> dict[str, set[str]]:
    """The labels of each series, by its name as a query has it."""
    labels: dict[str, set[str]] = {}
    for family in families.values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def queries() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    folder = ROOT / "deploy" / "monitoring"
    dashboard = json.loads((folder / "dashboard.json").read_text(encoding="utf-8"))
    panels = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    variables = [
        variable["definition"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    rules = yaml.safe_load((folder / "alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [*panels, *variables, *alerts]


@pytest.mark.usefixtures("busy")
def test_every_metric_is_documented_with_its_type_and_labels(web: WebProcess) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    documented = {
        name.removesuffix("_total"): (type_, set(re.findall(r"\w+", labels)))
        for name, type_, labels in DOCUMENTED.findall(page)
    }
    families = {name: family for name, family in scrape(web).items() if name.startswith("runyard_")}
    assert {name: family.type for name, family in families.items()} == {
        name: type_ for name, (type_, _) in documented.items()
    }
    labels = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families.items()
        if family.samples
    }
    assert labels == {name: documented[name][1] for name in labels}


@pytest.mark.usefixtures("busy")
def test_what_the_dashboard_and_the_alerts_ask_for_is_there(web: WebProcess) -> None:
    labels = labels_of(scrape(web)) | OF_PROMETHEUS
    for query in queries():
        names = METRIC.findall(query)
        assert names, query
        for name, selector in names:
            assert name in labels, query
            assert set(COMPARED.findall(selector)) <= labels[name] | OF_EVERY_SERIES, query
        of_all = set().union(*(labels[name] for name, _ in names)) | OF_EVERY_SERIES
        grouped = {label.strip() for group in GROUPED.findall(query) for label in group.split(",")}
        assert grouped <= of_all, query


def test_every_alert_has_a_section_in_the_documentation() -> None:
    rules = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (Runyard\w+)$", page, re.MULTILINE) == alerts


def promtool(*arguments: str, text: str = "") -> None:
    """Run promtool in the folder of the rules; fail with what it says."""
    ended = subprocess.run(
        ["promtool", *arguments],
        cwd=ROOT / "deploy" / "monitoring",
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_has_a_test() -> None:
    tests = (ROOT / "deploy/monitoring/alerts_test.yml").read_text(encoding="utf-8")
    rules = (ROOT / "deploy/monitoring/alerts.yml").read_text(encoding="utf-8")
    for alert in re.findall(r"- alert: (\w+)", rules):
        assert re.search(rf"alertname: {alert}\n +exp_alerts:", tests), alert


@pytest.mark.slow
def test_the_scrape_configuration_is_valid() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_prometheus_finds_nothing_wrong_with_the_metrics(web: WebProcess) -> None:
    promtool("check", "metrics", text=web.get("/metrics").text)
