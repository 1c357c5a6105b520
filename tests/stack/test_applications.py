"""An application with Inngest's SDK on a whole stack: from its registration to a re-execution."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runyard import send
from runyard.processes.stack import Stack
from tests.conftest import event, settled, wait_until
from tests.sdk_apps import SdkApp
from tests.stack.conftest import address, finished, graphql, reexecute, terminate

JOBS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"""


@pytest.fixture
def app(stack: Stack, tmp_path: Path) -> Iterator[SdkApp]:
    """An application `shop` that has registered."""
    made = SdkApp("shop", None, tmp_path / "log", INNGEST_DEV=address())
    made.run("working")
    httpx.put(made.url, json={"url": made.url}, timeout=30)
    yield made
    made.stop()
    httpx.delete(address("/fn/remove"), params={"url": made.url})


def jobs() -> set[str]:
    """The names of all jobs that Dagster shows."""
    nodes = graphql(JOBS)["repositoriesOrError"]["nodes"]
    return {job["name"] for node in nodes for job in node["jobs"]}


def page(path: str) -> str:
    """A page, as a browser gets it."""
    request = urllib.request.Request(address(path), headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def test_an_application_is_seen_runs_and_goes_on_behind_its_last_kept_step(app: SdkApp) -> None:
    wait_until(lambda: {"shop_serial", "shop_mended"} <= jobs())

    done = settled(send("work/serial", {"n": 1})[0])
    assert (done["status"], done["output"]) == ("succeeded", {"one": 2, "two": 4})
    assert app.ledger() == ["one", "two", "three"]
    assert "shop_serial" in page("/dev")

    app.clear()
    [mended] = send("work/mended")
    failed = settled(mended)
    assert failed["status"] == "failed"
    assert finished(failed["run_id"]) == "FAILURE"
    assert finished(reexecute(failed["run_id"], "FROM_FAILURE")) == "SUCCESS"
    assert settled(mended)["output"] == "mended"
    assert app.ledger() == ["first", "second", "second"]


def test_a_run_that_is_terminated_in_an_open_call_ends(app: SdkApp) -> None:
    [held] = send("work/held")
    wait_until(lambda: app.ledger() == ["held"])
    run_id = event(held)["invocations"][0]["run_id"]
    assert terminate(run_id) == "TerminateRunSuccess"
    assert finished(run_id) == "CANCELED"
    assert settled(held)["status"] == "cancelled"
    app.clear()  # which lets the step end: too late
    assert settled(send("work/serial", {"n": 1})[0])["status"] == "succeeded"
    assert event(held)["invocations"][0]["steps"] == []
