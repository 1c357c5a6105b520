"""Functions in the light form, from their event to their end."""

import asyncio
import functools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import (
    ConfigurableIOManager,
    DagsterInvalidDefinitionError,
    Definitions,
    JobDefinition,
    ReexecutionOptions,
    asset,
    execute_job,
    in_process_executor,
    job,
    op,
    reconstructable,
)

from runyard import (
    Batch,
    BatchIOManager,
    Item,
    Selection,
    cancel,
    definitions,
    function,
    on_event,
    receive,
    settle,
    step,
)
from runyard.dagster_adapter import builtin
from runyard.functions import registry
from runyard.testing import Yard
from runyard.text.json_lines import working_on
from tests.features import drawn
from tests.features.drawn import deeds

defs = definitions(drawn, resources=drawn.resources)


@pytest.fixture
def runyard_definitions() -> Iterator[Definitions]:
    """The functions in the light form, and no others."""
    jobs = {job.name for job in defs.jobs or ()}
    with registry.use(*(known for known in registry.functions() if known.job in jobs)):
        yield defs


@pytest.fixture(autouse=True)
def no_deeds() -> Iterator[None]:
    yield
    deeds.clear()


def op_names(job: JobDefinition) -> set[str]:
    return set(job.graph.node_dict)


# --- One step


def test_a_function_of_one_step_gives_what_the_step_returns(yard: Yard) -> None:
    invocation = yard.run(drawn.announce, {"title": "Dagster"})
    assert (invocation.status, invocation.output) == ("succeeded", "Dagster, attempt 1")


def test_the_invocations_of_a_function_are_found_by_the_function_itself(yard: Yard) -> None:
    invocation = yard.run(drawn.announce, {"title": "Dagster"})
    assert [found.id for found in yard.invocations(drawn.announce)] == [invocation.id]


def test_a_function_of_one_step_is_called_alike_everywhere() -> None:
    made = drawn.announce
    assert (made.name, made.job.name, made.sensor.name) == (
        "announce",
        "announce",
        "announce_sensor",
    )
    assert op_names(made.job) == {"receive", "announce", "settle"}


def test_a_function_may_be_async(yard: Yard) -> None:
    assert yard.run(drawn.deliver, {"n": 3}).output == "delivered 3"


def test_a_step_of_many_items_takes_them_in_one_call(yard: Yard) -> None:
    sent = [yard.send("drawn/rated", {"n": n}) for n in (1, -1, 5)]
    yard.work()
    assert [each.invocation.status for each in sent] == ["succeeded", "queued", "succeeded"]
    assert [each.invocation.output for each in sent] == [4, None, 8]


def test_a_step_of_the_batch_keeps_the_results_of_its_own_steps(yard: Yard) -> None:
    assert set(yard.run(drawn.sort, {"n": 3}).steps) == {"first", "then"}


def test_a_step_that_does_not_return_its_batch_fails_with_the_fix(yard: Yard) -> None:
    @step
    def lost(batch: Batch) -> Batch:
        return None  # type: ignore[return-value]

    with registry.use():
        made = function("lost/go")(lost)
        with Yard(definitions(made)) as own_yard:
            assert own_yard.run(made).status == "queued"
            assert "step lost returned NoneType: return its batch" in log_of(own_yard)


def log_of(yard: Yard) -> str:
    """What Dagster has logged of the first run."""
    return str(instance_of(yard).all_logs(yard.runs[0]))


@pytest.mark.parametrize("event", ["drawn/one", "drawn/two", "drawn/wild.ones"])
def test_each_of_several_events_starts_the_function(yard: Yard, event: str) -> None:
    sent = yard.send(event, {})
    yard.work()
    assert sent.invocation.output == event


# --- Waiting steps


def test_every_waiting_step_is_an_op_of_its_own() -> None:
    assert op_names(drawn.journey.job) == {
        "receive",
        "charge",
        "wait",
        "dawn",
        "approval",
        "announcement",
        "tell",
        "thank",
        "settle",
    }


def test_a_function_waits_in_every_way_and_ends(yard: Yard) -> None:
    sent = yard.send("drawn/paid", {"amount": 7})
    yard.work()
    assert sent.invocation.status == "sleeping"
    yard.advance("10s")
    yard.advance("5s")
    assert sent.invocation.status == "waiting"
    yard.send("drawn/approved", {"key": "other", "by": "Bob"})
    yard.send("drawn/approved", {"key": "a1", "by": "Ada"})
    yard.work()
    steps = {name: each.output for name, each in sent.invocation.steps.items()}
    assert sent.invocation.status == "succeeded"
    assert steps["approval"] == {"key": "a1", "by": "Ada"}
    assert steps["announcement"] == "7, attempt 1"
    assert steps["charge"] == {"number": 4, "amount": 7}
    assert [event.data for event in yard.sent("drawn/told")] == [{"amount": 7}]
    assert steps["thank"] == ["Receipt", 7, 5, "thank"]


def test_a_match_by_path_and_a_past_time_and_a_filter_work_as_in_the_long_form(yard: Yard) -> None:
    sent = yard.send("drawn/fixed", {"key": "k"})
    yard.work()
    yard.send("drawn/answered", {"key": "k", "sure": False})
    yard.work()
    assert sent.invocation.status == "waiting"
    yard.send("drawn/answered", {"key": "k", "sure": True})
    yard.work()
    assert sent.invocation.output == "done"


def test_an_invoked_function_that_fails_fails_the_step(yard: Yard) -> None:
    invocation = yard.run(drawn.asking, {"fails": True})
    assert invocation.error is not None
    assert (invocation.status, invocation.error["type"]) == ("failed", "InvokeFailed")
    assert set(invocation.steps) == {"call"}


def test_a_waiting_step_may_be_stubbed(yard: Yard) -> None:
    yard.stub("approval", {"key": "a1", "by": "a test"})
    yard.stub("wait", None)
    yard.stub("dawn", None)
    assert yard.run(drawn.journey, {"amount": 7}).status == "succeeded"


# --- Branches


def test_branches_are_parallel_ops_that_are_joined() -> None:
    assert op_names(drawn.split.job) == {
        "receive",
        "left",
        "right",
        "nap",
        "inner",
        "outer",
        "join",
        "join_2",
        "finish",
        "settle",
    }


def test_the_branches_begin_after_the_same_op() -> None:
    upstream = {
        invocation.alias: inputs["batch"].node
        for invocation, inputs in drawn.split.job.graph.dependencies.items()
        if "batch" in inputs
    }
    assert [upstream[name] for name in ("left", "right", "nap", "finish")] == [
        "receive",
        "receive",
        "right",
        "join_2",
    ]


def test_all_branches_are_gone_through(yard: Yard) -> None:
    sent = yard.send("drawn/split", {})
    yard.work()
    assert (sent.invocation.status, set(sent.invocation.steps)) == (
        "sleeping",
        {"left", "right"},
    )
    yard.advance(60)
    assert sent.invocation.output == ["left", "right", "inner", "outer"]


def test_a_branch_that_fails_lets_the_other_one_go_on_and_is_retried_alone(yard: Yard) -> None:
    ran: list[str] = []

    def fails_once(item: Item) -> str:
        ran.append("left")
        if item.attempt == 1:
            raise RuntimeError("not yet")
        return "left"

    deeds["left"] = fails_once
    deeds["right"] = lambda item: ran.append("right")
    sent = yard.send("drawn/split", {})
    yard.work()
    assert sent.invocation.status == "queued"
    yard.advance(120)
    assert sent.invocation.status == "succeeded"
    assert ran == ["left", "right", "left", "right", "right"]


def test_a_function_draws_another_one_in_its_body(yard: Yard) -> None:
    sent = yard.send("drawn/around", {})
    yard.work()
    yard.advance(60)
    assert sent.invocation.output == ["left", "right", "inner", "outer"]


# --- Elements


def test_every_element_is_a_kept_step_of_its_own(yard: Yard) -> None:
    invocation = yard.run(drawn.article, {"headings": ["a", "b", "c"]})
    assert set(invocation.steps) == {"section-1", "section-2", "section-3", "publish"}
    assert invocation.output == "A,B,C"


def test_items_with_different_numbers_of_elements_share_a_run(yard: Yard) -> None:
    sent = [yard.send("drawn/outlined", {"headings": ["a"] * n}) for n in (0, 1, 3)]
    yard.work()
    assert [each.invocation.output for each in sent] == ["", "A", "A,A,A"]
    assert len(yard.runs) == 1


def test_an_element_that_fails_is_retried_alone(yard: Yard) -> None:
    worked: list[str] = []

    def section(item: Item, heading: str) -> None:
        worked.append(heading)
        if heading == "b" and item.attempt == 1:
            raise RuntimeError("not yet")

    deeds["section"] = section
    sent = yard.send("drawn/outlined", {"headings": ["a", "b", "c"]})
    yard.work()
    assert set(sent.invocation.steps) == {"section-1", "section-2"}
    yard.advance(10)
    assert sent.invocation.output == "A,B,C"
    assert worked == ["a", "b", "b", "c"]


def test_an_element_has_attempts_of_its_own(yard: Yard) -> None:
    failures: Counter[str] = Counter()

    def section(item: Item, heading: str) -> None:
        failures[heading] += 1
        if failures[heading] < 3:
            raise RuntimeError("not yet")

    deeds["section"] = section
    sent = yard.send("drawn/outlined", {"headings": ["a", "b"]})
    yard.work()
    yard.advance(60)
    assert sent.invocation.output == "A,B"
    assert [sent.invocation.steps[f"section-{n}"].tries for n in (1, 2)] == [3, 3]


def test_elements_that_cannot_be_made_fail_their_item_alone(yard: Yard) -> None:
    sent = [yard.send("drawn/outlined", data) for data in ({}, {"headings": ["a"]})]
    yard.work()
    assert [each.invocation.status for each in sent] == ["queued", "succeeded"]
    assert sent[0].invocation.error is not None
    assert sent[0].invocation.error["type"] == "KeyError"


def test_too_many_elements_fail_for_good_with_the_limit(yard: Yard) -> None:
    invocation = yard.run(drawn.article, {"headings": ["a"] * 1001})
    assert invocation.status == "failed"
    assert invocation.error is not None
    assert "1,001 elements, and the limit is 1,000" in invocation.error["message"]


def test_the_elements_of_an_item_are_made_once_in_a_run(yard: Yard) -> None:
    made: list[int] = []

    def headings(item: Item) -> list[str]:
        made.append(item.id)
        return ["a", "b", "c"]

    deeds["headings"] = headings
    yard.run(drawn.article, {})
    assert len(made) == 1


def test_a_stub_stands_for_every_element(yard: Yard) -> None:
    yard.stub("section", {"bank": "x"}, {"bank": "y"})
    assert yard.run(drawn.article, {"headings": ["a", "b", "c"]}).output == "x,y,y"


def test_elements_may_be_async_and_have_a_condition(yard: Yard) -> None:
    wanted = yard.send("drawn/translated", {"headings": ["ab", "cd"]})
    other = yard.send("drawn/translated", {"wanted": False})
    yard.work()
    assert {name: each.output for name, each in wanted.invocation.steps.items()} == {
        "translation-1": "ba",
        "translation-2": "dc",
        "done": "done",
    }
    assert set(other.invocation.steps) == {"done"}


# --- Async steps


def send_many(yard: Yard, count: int) -> list[Any]:
    return [yard.send("drawn/fetched", {"n": n}) for n in range(count)]


def test_no_more_items_are_in_progress_than_there_are_tasks(yard: Yard) -> None:
    now, most = [0], [0]

    async def fetch(item: Item) -> int:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.02)
        now[0] -= 1
        return item.data["n"]

    deeds["fetch"] = fetch
    sent = send_many(yard, 20)
    yard.work()
    assert [each.invocation.steps["fetch"].output for each in sent] == list(range(20))
    assert most == [4]


def test_an_error_in_a_coroutine_fails_its_item_alone(yard: Yard) -> None:
    async def fetch(item: Item) -> str:
        await asyncio.sleep(0)
        if item.data["n"] == 1:
            raise ValueError("wrong")
        if item.data["n"] == 2:
            raise asyncio.CancelledError
        if item.data["n"] == 3:
            raise SystemExit(1)
        if item.data["n"] == 4:
            raise TimeoutError("the other side")
        return "fetched"

    deeds["fetch"] = fetch
    sent = send_many(yard, 7)
    yard.work()
    errors = [each.invocation.error for each in sent]
    assert [error and error["type"] for error in errors] == [
        None,
        "ValueError",
        "CancelledError",
        "SystemExit",
        "TimeoutError",
        None,
        None,
    ]


def test_a_coroutine_that_takes_too_long_is_cancelled_alone(yard: Yard) -> None:
    cancelled: list[int] = []

    async def fetch(item: Item) -> str:
        if item.data["n"] != 1 or item.attempt > 1:
            await asyncio.sleep(0.01)
            return "fetched"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item.data["n"])
            raise
        return "late"

    deeds["fetch"] = fetch
    sent = send_many(yard, 8)
    yard.work()
    assert cancelled == [1]
    error = sent[1].invocation.error
    assert error is not None
    assert (error["type"], error["retry_in_seconds"]) == ("StepTimeout", 10.0)
    assert "did not end within 1 s and was cancelled" in error["message"]
    assert len(yard.runs) == 1
    yard.advance(10)
    assert [each.invocation.status for each in sent] == ["succeeded"] * 8


def test_a_coroutine_that_blocks_the_loop_ends_as_a_hung_thread_does(yard: Yard) -> None:
    never = threading.Event()
    begun: Counter[int] = Counter()

    async def fetch(item: Item) -> str:
        begun[item.data["n"]] += 1
        if item.data["n"] == 3 and item.attempt == 1:
            await asyncio.sleep(0.01)
            never.wait()
        await asyncio.sleep(0.1)
        return "fetched"

    deeds["fetch"] = fetch
    try:
        sent = send_many(yard, 10)
        yard.work()
    finally:
        never.set()
    hung = sent[3].invocation
    assert hung.error is not None
    assert (hung.status, hung.error["type"]) == ("queued", "StepTimeout")
    others = [each.invocation for n, each in enumerate(sent) if n != 3]
    assert [each.status for each in others] == ["succeeded"] * 9
    assert [each.attempt for each in others] == [1] * 9
    assert [begun[n] for n in (0, 1, 2)] == [2, 2, 2]


def test_a_coroutine_that_blocks_the_loop_for_a_while_fails_nothing(yard: Yard) -> None:
    async def linger(item: Item) -> str:
        if item.data["n"] == 3:
            time.sleep(1.5)
        await asyncio.sleep(0.1)
        return "stayed"

    deeds["linger"] = linger
    sent = [yard.send("drawn/lingering", {"n": n}) for n in range(6)]
    yard.work()
    assert [each.invocation.status for each in sent] == ["succeeded"] * 6


def test_a_coroutine_sees_the_context_of_the_run(yard: Yard) -> None:
    async def fetch(item: Item) -> str:
        return drawn.tenant.get()

    deeds["fetch"] = fetch
    token = drawn.tenant.set("acme")
    try:
        [sent] = send_many(yard, 1)
        yard.work()
    finally:
        drawn.tenant.reset(token)
    assert sent.invocation.steps["fetch"].output == "acme"


def saved(yard: Yard) -> int:
    return sum("fetch" in each.steps for each in yard.invocations("fetching"))


def test_each_result_is_saved_while_others_are_in_progress(yard: Yard) -> None:
    seen: list[int] = []

    async def fetch(item: Item) -> None:
        for _ in range(item.data["n"] * 10):
            await asyncio.sleep(0.02)
        if item.data["n"] == 3:
            seen.append(await asyncio.to_thread(saved, yard))

    deeds["fetch"] = fetch
    send_many(yard, 4)
    yard.work()
    assert seen == [3]


def test_an_interrupt_cancels_what_is_in_progress_and_the_next_run_resumes(yard: Yard) -> None:
    begun: list[int] = []
    cancelled: list[int] = []

    async def fetch(item: Item) -> str:
        begun.append(item.data["n"])
        try:
            if item.data["n"] == 3 and begun.count(3) == 1:
                await asyncio.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.9)
        except asyncio.CancelledError:
            cancelled.append(item.data["n"])
            raise
        return "fetched"

    deeds["fetch"] = fetch
    sent = send_many(yard, 4)
    yard.execute("fetching", yard.claim("fetching")[0])
    assert cancelled == [3]
    assert [each.invocation.status for each in sent].count("succeeded") == 0
    yard.advance("10m")
    assert [each.invocation.status for each in sent] == ["succeeded"] * 4
    assert begun == [0, 1, 2, 3, 3]


def test_a_coroutine_of_a_cancelled_invocation_is_cancelled_alone(yard: Yard) -> None:
    cancelled: list[int] = []

    async def linger(item: Item) -> str:
        if item.data["n"] == 1:
            await asyncio.to_thread(cancel, Selection(invocations=(item.id,)))
        try:
            await asyncio.sleep(60 if item.data["n"] == 1 else 0.01)
        except asyncio.CancelledError:
            cancelled.append(item.data["n"])
            raise
        return "stayed"

    deeds["linger"] = linger
    sent = [yard.send("drawn/lingering", {"n": n}) for n in range(6)]
    yard.work()
    assert cancelled == [1]
    assert sent[1].invocation.status == "cancelled"
    assert [each.invocation.status for n, each in enumerate(sent) if n != 1] == ["succeeded"] * 5
    assert len(yard.runs) == 1


def test_nothing_is_saved_once_the_lease_is_lost(yard: Yard) -> None:
    from runyard.store import database

    begun: list[int] = []

    async def fetch(item: Item) -> str:
        begun.append(item.data["n"])
        if len(begun) == 4:
            with database.connection() as connection:
                connection.execute("UPDATE runyard.batches SET status = 'lost'")
        await asyncio.sleep(0.1)
        return "fetched"

    deeds["fetch"] = fetch
    send_many(yard, 12)
    yard.execute("fetching", yard.claim("fetching")[0])
    assert begun == [0, 1, 2, 3]
    assert saved(yard) == 0


def test_an_async_step_may_be_decorated_by_a_function_that_is_not_async(yard: Yard) -> None:
    def logged(do: Any) -> Any:
        @functools.wraps(do)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return do(*args, **kwargs)

        return wrapper

    with registry.use():

        @function("logged/go")
        @logged
        async def logging(item: Item) -> str:
            await asyncio.sleep(0)
            return "logged"

        with Yard(definitions(logging)) as own_yard:
            assert own_yard.run(logging).output == "logged"


def test_a_step_of_the_light_form_serves_an_op_of_the_long_form(yard: Yard) -> None:
    @op
    def borrowed(batch: Batch) -> Batch:
        return batch.map("linger", drawn.linger)

    @job(executor_def=in_process_executor)
    def borrowing() -> None:
        settle(borrowed(receive()))

    async def linger(item: Item) -> str:
        return "stayed"

    deeds["linger"] = linger
    with registry.use():
        with Yard(definitions(on_event("borrowing/go", job=borrowing))) as own_yard:
            assert own_yard.run("borrowing").output == "stayed"


# --- The end of an invocation


def test_a_step_and_a_body_are_callbacks(yard: Yard) -> None:
    yard.run(drawn.guarded, {"fails": True})
    assert [each.output for each in yard.invocations("guarded_on_failure")] == [
        "this can never work"
    ]
    yard.run(drawn.guarded, {})
    [glad] = yard.invocations("guarded_on_success")
    assert set(glad.steps) == {"cheer", "done"}


def test_callbacks_are_jobs_of_the_function() -> None:
    assert [job.name for job in drawn.guarded.jobs] == [
        "guarded",
        "guarded_on_failure",
        "guarded_on_success",
    ]


# --- In Dagster


def instance_of(yard: Yard) -> Any:
    return yard._instance


def test_a_job_is_launched_by_hand_with_events_in_the_config_of_receive(yard: Yard) -> None:
    config = {"ops": {"receive": {"config": {"events": [{"data": {"title": "by hand"}}]}}}}
    result = defs.get_job_def("announce").execute_in_process(config, instance=instance_of(yard))
    assert result.success
    [invocation] = yard.invocations("announce")
    assert invocation.output == "by hand, attempt 1"


def test_config_of_a_step_is_given_in_the_launchpad(yard: Yard) -> None:
    for name in ("wait", "dawn", "approval", "announcement"):
        yard.stub(name, None)
    config = {
        "ops": {
            "receive": {"config": {"events": [{"data": {"amount": 7}}]}},
            "thank": {"config": {"cents": 90}},
        }
    }
    from runyard.engine.items import stubs

    token = stubs.set(yard._stubs)
    try:
        defs.get_job_def("journey").execute_in_process(config, instance=instance_of(yard))
    finally:
        stubs.reset(token)
    [invocation] = yard.invocations("journey")
    assert invocation.output == ["Receipt", 7, 90, "thank"]


def test_the_op_of_a_failed_step_shows_as_failed(yard: Yard) -> None:
    deeds["right"] = lambda item: 1 / 0
    yard.run(drawn.split, {})
    failed = [
        record.dagster_event.step_key
        for record in instance_of(yard).all_logs(yard.runs[0])
        if record.dagster_event is not None and record.dagster_event.is_step_failure
    ]
    assert "right" in failed
    assert "left" not in failed


def test_a_run_with_failures_says_so_in_the_log_of_its_worker(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    deeds["right"] = lambda item: 1 / 0
    yard.run(drawn.split, {})
    [said] = [record.getMessage() for record in caplog.records if record.name == "runyard.worker"]
    assert said == (
        "split: 1 of 1 invocations failed; the first in step right: ZeroDivisionError: division by"
        f" zero (1 to be retried, run {yard.runs[0]})"
    )


def split_job() -> JobDefinition:
    return defs.get_job_def("split")


def test_a_run_is_re_executed_from_its_failure(yard: Yard) -> None:
    ran: list[str] = []
    deeds["left"] = lambda item: ran.append("left")
    deeds["right"] = lambda item: ran.append("right") or 1 / 0
    invocation = yard.run(drawn.split, {})
    assert ran == ["left", "right"]
    deeds["right"] = lambda item: ran.append("right")
    instance = instance_of(yard)
    options = ReexecutionOptions.from_failure(yard.runs[0], instance)
    with execute_job(reconstructable(split_job), instance, reexecution_options=options) as resumed:
        assert resumed.success
    assert ran == ["left", "right", "right"]
    assert invocation.status == "sleeping"


# --- Definitions


class Shelf(ConfigurableIOManager):
    """An IO manager for assets; it keeps everything."""

    def handle_output(self, context: Any, obj: Any) -> None:
        shelved.append(obj)

    def load_input(self, context: Any) -> Any:
        return shelved[-1]


shelved: list[Any] = []


@asset
def price() -> int:
    return 5


@asset
def total(price: int) -> int:
    return price + 1


@op
def count(batch: Batch) -> Batch:
    return batch.map("count", lambda item: 1)


@job(executor_def=in_process_executor)
def long_form() -> None:
    settle(count(receive()))


@op
def make() -> int:
    return 5


@job(executor_def=in_process_executor)
def etl() -> None:
    make()


@pytest.fixture
def long_sensor() -> Iterator[Any]:
    with registry.use():
        yield on_event("long/go", job=long_form)


def loads(made: Definitions) -> bool:
    Definitions.validate_loadable(made)
    return True


def test_definitions_are_loadable() -> None:
    assert loads(defs)


def test_assets_keep_their_own_io_manager() -> None:
    made = definitions(
        drawn.announce, Definitions(assets=[price, total], resources={"io_manager": Shelf()})
    )
    assert loads(made)
    shelved.clear()
    assert made.resolve_implicit_global_asset_job_def().execute_in_process().success
    assert shelved == [5, 6]


def test_assets_without_an_io_manager_keep_that_of_dagster() -> None:
    made = definitions(drawn.announce, assets=[price, total])
    assert "io_manager" not in (made.resources or {})


def test_a_job_of_the_long_form_gets_its_io_manager(long_sensor: Any) -> None:
    made = definitions(long_sensor, drawn.announce)
    assert loads(made)
    assert isinstance((made.resources or {})["io_manager"], BatchIOManager)


def test_a_job_of_the_long_form_works_beside_one_of_the_light_form(
    runyard_database: str, long_sensor: Any
) -> None:
    with Yard(definitions(long_sensor, drawn.announce)) as yard:
        assert yard.run("long_form").output == 1


def test_another_job_keeps_the_io_manager_of_dagster(long_sensor: Any) -> None:
    made = definitions(long_sensor, Definitions(jobs=[etl]))
    assert "io_manager" not in (made.resources or {})


def test_built_ins_are_there_once() -> None:
    project = Definitions(jobs=builtin.jobs, sensors=builtin.sensors)
    for made in (
        definitions(drawn.announce, project),
        definitions(drawn.announce, jobs=builtin.jobs, sensors=builtin.sensors),
        definitions(definitions(drawn.announce), drawn.guarded),
    ):
        assert loads(made)
        names = [sensor.name for sensor in made.sensors or ()]
        assert names.count("runyard_maintenance") == 1


def test_resources_come_from_either_side() -> None:
    for made in (
        definitions(drawn.journey, resources=drawn.resources),
        definitions(drawn.journey, Definitions(resources=drawn.resources)),
    ):
        assert loads(made)


def test_a_resource_that_nobody_gives_is_refused_by_its_name() -> None:
    with pytest.raises(DagsterInvalidDefinitionError, match="resource with key 'bank'"):
        loads(definitions(drawn.journey))


def test_a_function_that_is_given_with_its_job_and_sensor_is_there_once() -> None:
    made = definitions(drawn.announce, jobs=drawn.announce.jobs, sensors=[drawn.announce.sensor])
    assert loads(made)


def test_plain_definitions_take_the_jobs_and_sensors_with_the_io_manager() -> None:
    made = Definitions(
        jobs=drawn.announce.jobs,
        sensors=[drawn.announce.sensor],
        resources={"runyard_batches": BatchIOManager()},
    )
    assert loads(made)


def test_plain_definitions_without_the_io_manager_are_refused_by_its_name() -> None:
    made = Definitions(jobs=drawn.announce.jobs, sensors=[drawn.announce.sensor])
    with pytest.raises(DagsterInvalidDefinitionError, match="'runyard_batches'"):
        loads(made)


def test_many_functions_load(runyard_database: str) -> None:
    with registry.use():
        many = [function(f"many/{n}", name=f"many_{n}")(one_of_many) for n in range(300)]
        assert len(definitions(*many).get_repository_def().job_names) >= 300


def one_of_many(item: Item) -> int:
    return 1


def test_what_a_step_logs_says_what_it_works_on(yard: Yard) -> None:
    seen: list[Any] = []

    def plain(item: Item) -> None:
        seen.append((item.event.id, working_on.get()()))

    async def slow(item: Item) -> None:
        seen.append((item.event.id, working_on.get()()))

    with registry.use():
        made = [function(f"logs/{do.__name__}")(do) for do in (plain, slow)]
        with Yard(definitions(*made)) as own_yard:
            for each in made:
                invocation = own_yard.run(each)
                event, told = seen.pop()
                assert told == {
                    "event": event,
                    "function": invocation.function,
                    "invocation": invocation.id,
                    "run": own_yard.runs[-1],
                    "step": invocation.function,
                    "attempt": 1,
                }
    assert working_on.get()() == {}
