"""A run that fails outside of every step tells its invocations the error, wherever it ran."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    Failure,
    JobDefinition,
    build_run_status_sensor_context,
    in_process_executor,
    job,
    op,
    resource,
)
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from runyard import Batch, BatchIOManager, receive, send, settle
from runyard.dagster_adapter import builtin, execution, reaper
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims
from runyard.functions.registry import Function
from runyard.gateway.dev.blockers import reasons
from runyard.store import database
from runyard.store.queries import fetch_one
from tests.conftest import event

RUN_FAILURE = DagsterEventType.RUN_FAILURE
RESOURCES = {"io_manager": BatchIOManager()}


class CardDeclined(Exception):
    """An error of the project."""


@op
def charge(batch: Batch) -> Batch:
    try:
        raise KeyError("card")
    except KeyError as error:
        raise CardDeclined("no card, with password=hunter2secret") from error


@op
def shout(batch: Batch) -> Batch:
    raise CardDeclined("x" * 20_000 + "\0")


@op
def give_up(batch: Batch) -> Batch:
    raise Failure("the bank is closed")


@op
def count(batch: Batch) -> Batch:
    return len(batch)  # type: ignore[return-value]


@resource
def bank() -> None:
    raise ConnectionError("the bank does not answer")


@op(required_resource_keys={"bank"})
def ask(batch: Batch) -> Batch:
    return batch


@job(executor_def=in_process_executor, resource_defs=RESOURCES)
def charging() -> None:
    settle(charge(receive()))


@job(executor_def=in_process_executor, resource_defs=RESOURCES)
def shouting() -> None:
    settle(shout(receive()))


@job(executor_def=in_process_executor, resource_defs=RESOURCES)
def giving_up() -> None:
    settle(give_up(receive()))


@job(executor_def=in_process_executor, resource_defs=RESOURCES)
def counting() -> None:
    settle(count(receive()))


@job(executor_def=in_process_executor, resource_defs={**RESOURCES, "bank": bank})
def asking() -> None:
    settle(ask(receive()))


@pytest.fixture
def instance(store_url: str) -> Iterator[DagsterInstance]:
    """The Dagster instance of the project, in the database of these tests."""
    with DagsterInstance.get() as made:
        yield made


@pytest.fixture
def claimed(function: Function) -> tuple[str, str]:
    """The ids of an event and of the batch that was claimed for it."""
    [event_id] = send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    return event_id, claim.batch_id


def prepared(
    instance: DagsterInstance, runs: JobDefinition, batch_id: str, name: str = ""
) -> DagsterRun:
    """A run of a job for a batch, which a process loads as `name` from this module."""
    pointer = ModuleCodePointer(__name__, name or runs.name, None)
    origin = JobPythonOrigin(runs.name, RepositoryPythonOrigin(sys.executable, pointer))
    return instance.create_run_for_job(runs, tags={BATCH: batch_id}, job_code_origin=origin)


def executed(
    instance: DagsterInstance, runs: JobDefinition, claimed: tuple[str, str], name: str = ""
) -> dict[str, Any]:
    """Execute a run as a warm worker does; return the invocation."""
    event_id, batch_id = claimed
    execution.execute(instance, prepared(instance, runs, batch_id, name).run_id)
    [invocation] = event(event_id)["invocations"]
    return invocation


def test_the_error_of_an_op_is_that_of_the_invocation(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    error = executed(instance, charging, claimed)["error"]
    assert (error["type"], error["op"], error["step"]) == ("CardDeclined", "charge", None)
    assert error["message"] == "no card, with password=[redacted]"


def test_the_traceback_ends_with_the_line_of_the_project_and_has_the_causes(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    trace = executed(instance, charging, claimed)["error"]["traceback"]
    assert "KeyError: 'card'" in trace
    assert "direct cause of the following exception" in trace
    assert trace.splitlines()[-2].strip().startswith("raise CardDeclined(")
    assert "hunter2secret" not in trace
    assert len(trace.splitlines()) <= 40


def test_an_error_outside_of_a_step_is_retried_as_an_attempt(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    invocation = executed(instance, charging, claimed)
    assert (invocation["status"], invocation["attempt"]) == ("queued", 1)


def test_a_long_message_with_characters_that_cannot_be_stored_is_bounded(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    error = executed(instance, shouting, claimed)["error"]
    assert error["type"] == "CardDeclined"
    assert error["message"] == "x" * 10_000 + " ..."


def test_a_failure_of_dagster_is_told_as_it_is(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    error = executed(instance, giving_up, claimed)["error"]
    assert (error["type"], error["message"]) == ("Failure", "the bank is closed")


def test_a_resource_that_cannot_be_created_is_no_attempt_and_tells_its_error(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    invocation = executed(instance, asking, claimed)
    assert (invocation["status"], invocation["attempt"]) == ("queued", 0)
    error = invocation["error"]
    assert (error["type"], error["message"]) == ("ConnectionError", "the bank does not answer")
    assert "in bank" in error["traceback"]


def test_the_dev_page_says_why_a_run_never_began(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    invocation = executed(instance, asking, claimed)
    with database.connection() as connection:
        row = fetch_one(connection, "blockers", invocation=invocation["id"])
    assert row is not None
    assert (
        "waiting: its run failed before it began (ConnectionError: the bank does not answer)"
        in [reason.text for reason in reasons(row, [], 2, 0)]
    )


def test_a_value_of_the_wrong_type_tells_what_dagster_says(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    error = executed(instance, counting, claimed)["error"]
    assert (error["type"], error["op"]) == ("DagsterTypeCheckDidNotPass", "count")
    assert 'Type check failed for step output "result"' in error["message"]


def test_a_process_that_does_not_have_the_job_tells_so(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    error = executed(instance, charging, claimed, name="charging_of_yesterday")["error"]
    assert error["type"] != "RunFailed"
    assert "charging_of_yesterday" in error["message"]


def test_the_sensor_of_failed_runs_tells_the_error_as_well(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    event_id, batch_id = claimed
    result = charging.execute_in_process(
        instance=instance, tags={BATCH: batch_id}, raise_on_error=False
    )
    failure = next(each for each in result.all_events if each.event_type == RUN_FAILURE)
    context = build_run_status_sensor_context(
        "settle_failed_runs", failure, instance, result.dagster_run
    )
    builtin.sensors[0](context)
    [invocation] = event(event_id)["invocations"]
    assert invocation["error"]["type"] == "CardDeclined"


def test_the_reaper_tells_the_error_of_a_run_that_has_failed(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    event_id, batch_id = claimed
    result = charging.execute_in_process(
        instance=instance, tags={BATCH: batch_id}, raise_on_error=False
    )
    row = {"id": batch_id, "run_id": result.run_id, "function": "greet", "status": "running"}
    assert reaper.reap(instance, [{**row, "cancelled": False}], force=True) == 1
    [invocation] = event(event_id)["invocations"]
    assert invocation["error"]["type"] == "CardDeclined"


def test_without_an_error_the_end_of_the_run_is_told(
    instance: DagsterInstance, claimed: tuple[str, str]
) -> None:
    event_id, batch_id = claimed
    run = prepared(instance, charging, batch_id)
    instance.report_run_failed(run, "The run was too old.")
    assert reaper.settle_orphaned(instance, run.run_id)
    [invocation] = event(event_id)["invocations"]
    assert invocation["error"]["type"] == "RunFailed"
    assert "The run was too old." in invocation["error"]["message"]
