"""Traces through all processes of a stack, and what a collector that hangs holds up."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from runyard import Event, send
from tests.collector import Collector
from tests.conftest import settled, wait_until
from tests.example_trace import TRACE, TRACEPARENT
from tests.faults.conftest import running
from tests.ports import free_port
from tests.tables import rows

pytestmark = pytest.mark.usefixtures("own_database")


def traced(collector: Collector) -> dict[str, str]:
    return {"RUNYARD_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}


def test_a_trace_goes_through_all_processes_and_on_after_a_worker_was_killed(
    tmp_path: Path,
) -> None:
    port = free_port()
    gate = tmp_path / "gate"
    event = {"name": "test/steps", "data": {"gate": str(gate)}}
    with (
        Collector() as collector,
        running(tmp_path, RUNYARD_PORT=str(port), **traced(collector)),
    ):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/api/events", json=event, headers={"traceparent": TRACEPARENT}
        )
        [event_id] = answer.json()["ids"]
        working = "SELECT worker FROM runyard.batches WHERE status = 'running'"
        [batch] = wait_until(lambda: rows(working))
        collector.wait_for(lambda collector: bool(collector.named("first")))
        os.kill(int(batch["worker"].rsplit(":", 1)[1]), signal.SIGKILL)
        wait_until(lambda: len(rows("SELECT FROM runyard.batches")) == 2)
        gate.touch()
        assert settled(event_id, 60)["status"] == "succeeded"
        collector.wait_for(lambda collector: bool(collector.named("steps")))
        collector.wait_for(lambda collector: len(collector.named("run steps")) == 2)
        tree = collector.tree(TRACE)
    assert list(tree) == ["send test/steps"]
    runs = tree["send test/steps"]["steps"]
    assert list(runs["run steps"]) == ["first"]
    assert next(iter(runs["run steps again"])) == "second"
    assert [run.attributes.get("error.type") for run in collector.named("run steps")] == [
        "WorkerLost",
        None,
    ]


def test_a_step_that_hangs_is_in_the_trace_although_its_process_was_killed(
    tmp_path: Path,
) -> None:
    with Collector() as collector, running(tmp_path, **traced(collector)):
        ids = send([Event("test/hanging", {"how": "wait"}), Event("test/apart", {"how": "wait"})])
        assert {settled(event_id, 180)["status"] for event_id in ids} == {"failed"}
        for whole in ("hanging", "hanging_apart"):
            collector.wait_for(lambda collector, whole=whole: bool(collector.named(whole)))
        spans = list(collector.spans)
    for function in ("hanging", "hanging_apart"):
        [whole] = [span for span in spans if span.name == function]
        runs = [span for span in spans if span.name == f"run {function}"]
        steps = [
            span
            for span in spans
            if span.attributes.get("runyard.step") == "hang" and span.trace == whole.trace
        ]
        assert len(runs) == 3
        assert {run.parent for run in runs} == {whole.id}
        assert {step.parent for step in steps} == {run.id for run in runs}
        assert [step.attributes["runyard.step.attempt"] for step in steps] == [1, 2, 3]
        assert {span.attributes["error.type"] for span in (whole, *runs, *steps)} == {"StepTimeout"}
        assert min(span.end - span.start for span in (*runs, *steps)) >= 3


def test_a_collector_that_hangs_costs_no_run_and_holds_up_no_process(tmp_path: Path) -> None:
    with Collector() as collector:
        collector.mode = "hangs"
        with running(tmp_path, **traced(collector)) as log:
            ids = send([Event("test/steps", {"n": n}) for n in range(600)])
            assert {settled(one, 60)["status"] for one in ids[::100]} == {"succeeded"}
            collector.wait_for(lambda collector: collector.requests > 0)
            wait_until(lambda: "takes no traces" in log.read_text())
        assert log.read_text().count("takes no traces") <= 10
    # The supervisor kills a process that does not end in time, and says so.
    supervised = (tmp_path / "data" / "supervisord.log").read_text()
    assert "stopped: worker" in supervised
    assert "with SIGKILL" not in supervised
