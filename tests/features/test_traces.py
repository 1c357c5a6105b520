"""Traces: the spans of an event and of all that comes of it, as a collector receives them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import pytest
from dagster import Definitions
from opentelemetry import propagate, trace

import runyard
from runyard.apps.checkpoints import parse_checkpoint
from runyard.engine import batch_leases
from runyard.events import new_ulid
from runyard.functions import registry
from runyard.gateway.http.checkpoint_writer import CheckpointWriter
from runyard.settings import settings
from runyard.syntax.traceparent import TraceContext, parse_traceparent
from runyard.testing import Yard
from runyard.tracing import contexts, exporting, recording
from runyard.tracing.spans import Span
from tests import remote_work
from tests.collector import Collector, Recorded
from tests.conftest import ROOT
from tests.example_trace import SPAN, TRACE, TRACEPARENT
from tests.features import traced
from tests.features.traced import SECRET, deeds
from tests.remote_app import RemoteApp, served_app
from tests.tables import rows

PACKED = {
    "queued": {},
    "run pack": {"pick": {}, "tell": {"post": {"queued": {}, "run post": {"post": {}}}}},
}


@pytest.fixture
def runyard_definitions() -> Iterator[Definitions]:
    """The traced functions, and no others."""
    jobs = {job.name for job in traced.defs.jobs or ()}
    with registry.use(*(known for known in registry.functions() if known.job in jobs)):
        yield traced.defs


@pytest.fixture(scope="module")
def one_collector() -> Iterator[Collector]:
    """The collector of this process, whose exporter is made only once."""
    with Collector() as collector, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RUNYARD_TRACES", "otlp")
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patched.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        settings.cache_clear()
        recording.sampler.cache_clear()
        yield collector
        exporting.close()
    settings.cache_clear()


@pytest.fixture
def collector(one_collector: Collector) -> Iterator[Collector]:
    """The collector, with nothing in it."""
    yield one_collector
    one_collector.mode, one_collector.seconds = "takes", 0.0
    flush()
    one_collector.spans.clear()
    deeds.clear()


@pytest.fixture
def sent_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends an event as a request that has a `traceparent` does."""

    def send(yard: Yard, name: str, header: str = TRACEPARENT, **data: Any) -> Any:
        token = contexts.incoming.set(parse_traceparent(header))
        try:
            return yard.send(name, data)
        finally:
            contexts.incoming.reset(token)

    return send


def flush() -> None:
    exporting.exporter().flush()


def received(collector: Collector) -> list[Recorded]:
    flush()
    return collector.spans


# --- The tree


def test_all_that_comes_of_an_event_is_below_the_span_that_sent_it(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed")
    yard.work()
    received(collector)
    assert collector.tree(TRACE) == {"pack": PACKED}
    assert [span.parent for span in collector.named("pack")] == [SPAN]


def test_an_event_without_a_trace_begins_one_whose_id_follows_from_its_own(
    yard: Yard, collector: Collector
) -> None:
    sent = yard.send("traced/placed")
    yard.work()
    received(collector)
    assert collector.tree(f"{contexts.trace_id_of_event(sent.id):032x}") == {"pack": PACKED}
    assert {span.trace for span in collector.spans} == {
        f"{contexts.trace_id_of_event(sent.id):032x}"
    }


def test_each_attempt_is_a_run_of_its_own_with_its_wait(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed", fails=1)
    yard.advance("1m")
    received(collector)
    tree = collector.tree(TRACE)["pack"]
    assert list(tree) == ["queued", "run pack", "queued again", "run pack again"]
    assert tree["run pack"] == {"pick": {}}
    assert tree["run pack again"]["pick"] == {}
    assert [
        (span.failed, span.attributes["runyard.step.attempt"]) for span in collector.named("pick")
    ] == [(True, 1), (False, 2)]
    assert [span.attributes["runyard.outcome"] for span in collector.named("run pack")] == [
        "queued",
        "succeeded",
    ]


def test_an_invocation_that_fails_names_the_type_of_its_error(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed", fails=9)
    yard.advance("1m")
    received(collector)
    [whole] = collector.named("pack")
    assert whole.failed
    assert whole.attributes["error.type"] == "ConnectionError"
    assert whole.attributes["runyard.outcome"] == "failed"


def test_spans_name_what_they_are_about(yard: Yard, collector: Collector, sent_with: Any) -> None:
    sent = sent_with(yard, "traced/placed")
    yard.work()
    received(collector)
    [step], [run] = collector.named("pick"), collector.named("run pack")
    about = {"runyard.function": "pack", "runyard.invocation": sent.invocation.id}
    assert step.service == "runyard"
    assert step.attributes == {**about, "runyard.step": "pick", "runyard.step.attempt": 1}
    assert run.attributes == {
        **about,
        "runyard.event.id": sent.id,
        "runyard.event.name": "traced/placed",
        "runyard.run": yard.runs[0],
        "runyard.attempt": 1,
        "runyard.outcome": "succeeded",
    }


def test_no_span_holds_what_events_steps_and_errors_do(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed", fails=1, card=SECRET)
    yard.advance("1m")
    assert "run pack" in {span.name for span in received(collector)}
    assert SECRET not in repr(collector.spans)


def test_spans_are_inside_of_those_that_they_are_part_of(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed")
    yard.work()
    received(collector)
    [whole], [run], [pick] = (collector.named(name) for name in ("pack", "run pack", "pick"))
    assert whole.start <= run.start <= pick.start <= pick.end <= run.end <= whole.end


def test_a_sleep_ends_a_run_and_an_invoked_function_is_below_the_step_that_invokes_it(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/asked")
    yard.advance("2m")
    received(collector)
    tree = collector.tree(TRACE)["ask"]
    assert list(tree["run ask"]) == ["nap"]
    assert tree["run ask again"] == {
        "nap": {},
        "call": {"post": {"queued": {}, "run post": {"post": {}}}},
    }
    assert [span.attributes["runyard.outcome"] for span in collector.named("run ask")] == [
        "sleeping",
        "waiting",
        "succeeded",
    ]


def test_each_invocation_of_a_run_of_many_is_in_its_own_trace(
    yard: Yard, collector: Collector
) -> None:
    sent = yard.send_all([runyard.Event("traced/counted") for _ in range(3)])
    assert yard.work() == 1
    received(collector)
    for each in sent:
        tree = collector.tree(f"{contexts.trace_id_of_event(each.id):032x}")
        assert tree == {"count": {"queued": {}, "run count": {"count": {}}}}


def test_a_replay_is_in_the_trace_of_its_event(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent = sent_with(yard, "traced/noted")
    yard.work()
    runyard.replay(runyard.Selection(invocations=[sent.invocation.id]))
    yard.work()
    received(collector)
    assert list(collector.tree(TRACE)) == ["note", "note again"]


def test_a_run_whose_worker_dies_is_an_error_and_the_next_one_goes_on(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/packed")
    [batch_id] = yard.claim("post")
    assert batch_leases.begin(batch_id, "the-lost-run") is not None
    batch_leases.release(batch_id, "running", "queued", attempts=3, crashed=True, force=True)
    yard.work()
    received(collector)
    lost, other = collector.named("run post")
    assert lost.attributes["error.type"] == "WorkerLost"
    assert lost.attributes["runyard.run"] == "the-lost-run"
    assert not other.failed
    assert [whole.id for whole in collector.named("post") if whole.kind == "consumer"] == [
        lost.parent
    ]


def test_a_run_that_a_stopping_worker_hands_back_is_an_error_and_the_next_one_goes_on(
    yard: Yard, collector: Collector, sent_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_leases, "_worker_name", "here:1:2")
    sent_with(yard, "traced/packed")
    [batch_id] = yard.claim("post")
    assert batch_leases.begin(batch_id, "the-first-run") is not None
    assert batch_leases.hand_back("here:1") == ["the-first-run"]
    yard.advance("10s")
    received(collector)
    first, second = collector.named("run post")
    assert first.attributes["error.type"] == "WorkerStopped"
    assert first.attributes["runyard.run"] == "the-first-run"
    assert first.attributes["runyard.outcome"] == "queued"
    assert not second.failed
    assert [run.attributes["runyard.attempt"] for run in (first, second)] == [1, 1]
    assert [whole.id for whole in collector.named("post") if whole.kind == "consumer"] == [
        first.parent
    ]


def test_a_cancelled_run_that_is_handed_back_ends_the_invocation(
    yard: Yard, collector: Collector, sent_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_leases, "_worker_name", "here:1:2")
    sent = sent_with(yard, "traced/packed")
    [batch_id] = yard.claim("post")
    batch_leases.begin(batch_id, "the-only-run")
    runyard.cancel(runyard.Selection(invocations=[sent.invocation.id]))
    batch_leases.hand_back("here:1")
    received(collector)
    assert collector.tree(TRACE) == {"post": {"run post": {}}}
    [whole] = [span for span in collector.named("post") if span.kind == "consumer"]
    assert whole.attributes["runyard.outcome"] == "cancelled"


def test_a_run_of_many_whose_worker_dies_names_the_attempt_that_it_was(
    yard: Yard, collector: Collector
) -> None:
    yard.send_all([runyard.Event("traced/counted") for _ in range(2)])
    [batch_id] = yard.claim("count")
    batch_leases.begin(batch_id, "the-lost-run")
    batch_leases.release(batch_id, "running", "queued", attempts=3, crashed=True, force=True)
    received(collector)
    lost = collector.named("run count")
    assert [span.attributes["runyard.attempt"] for span in lost] == [1, 1]


@pytest.fixture
def one_of_two_hung(
    yard: Yard, collector: Collector, sent_with: Any
) -> Iterator[tuple[Collector, str]]:
    """The collector after a run with two events, one of which hung; the other's trace."""
    never = threading.Event()
    deeds["wait"] = lambda item: item.event.data["hangs"] and never.wait()
    sent_with(yard, "traced/hung", hangs=True)
    other = yard.send("traced/hung", {"hangs": False})
    yard.work()
    received(collector)
    yield collector, f"{contexts.trace_id_of_event(other.id):032x}"
    never.set()


def test_a_step_that_hangs_its_run_and_its_invocation_are_errors(
    one_of_two_hung: tuple[Collector, str],
) -> None:
    collector, _ = one_of_two_hung
    assert collector.tree(TRACE) == {"hang": {"queued": {}, "run hang": {"wait": {}}}}
    spans = [
        span
        for name in ("hang", "run hang", "wait")
        for span in collector.named(name)
        if span.trace == TRACE
    ]
    whole, run, step = spans
    assert [span.attributes["error.type"] for span in spans] == ["StepTimeout"] * 3
    assert whole.attributes["runyard.outcome"] == "failed"
    assert step.attributes["runyard.step.attempt"] == 1
    assert run.end - run.start >= 1
    assert step.end - step.start >= 1


def test_a_run_beside_a_step_that_hangs_is_no_error_and_the_next_one_goes_on(
    one_of_two_hung: tuple[Collector, str],
) -> None:
    collector, trace_id = one_of_two_hung
    assert set(collector.tree(trace_id)["hang"]) == {
        "queued",
        "run hang",
        "queued again",
        "run hang again",
    }
    runs = [span for span in collector.named("run hang") if span.trace == trace_id]
    assert [span.attributes["runyard.outcome"] for span in runs] == ["queued", "succeeded"]
    assert not any(run.failed for run in runs)


# --- What steps do


def test_what_a_step_sends_with_the_python_client_is_below_the_step(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/noted")
    yard.work()
    received(collector)
    assert list(collector.tree(TRACE)["note"]["run note"]["note"]) == ["post"]


@pytest.mark.parametrize(
    ("event", "deed", "name"),
    [("traced/placed", "pick", "pick"), ("traced/awaited", "wait", "wait_for")],
)
def test_requests_that_a_step_makes_can_carry_its_span(
    yard: Yard, collector: Collector, sent_with: Any, event: str, deed: str, name: str
) -> None:
    headers: dict[str, str] = {}
    deeds[deed] = lambda item: propagate.inject(headers)
    sent_with(yard, event)
    yard.work()
    received(collector)
    [step] = [span for span in collector.named(name) if "runyard.step" in span.attributes]
    assert headers["traceparent"] == f"00-{TRACE}-{step.id}-01"


def test_spans_that_a_step_makes_itself_are_below_it(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    def look_up(item: Any) -> None:
        with trace.get_tracer("shop").start_as_current_span("look up"):
            runyard.send("traced/packed")

    deeds["pick"] = look_up
    sent_with(yard, "traced/placed")
    yard.work()
    received(collector)
    assert list(collector.tree(TRACE)["pack"]["run pack"]["pick"]["look up"]) == ["post"]


def test_log_lines_of_a_step_can_name_its_trace(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    from runyard.text.json_lines import working_on

    seen: dict[str, Any] = {}
    deeds["pick"] = lambda item: seen.update(working_on.get()())
    sent_with(yard, "traced/placed")
    yard.work()
    assert seen["trace"] == TRACE


# --- Functions of applications


@pytest.fixture
def app(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteApp]:
    """An application with a function of one step."""

    def answer(path: str, sent: Any) -> tuple[int, Any]:
        done = {"id": sha1(b"pay").hexdigest(), "op": "StepRun", "data": SECRET}
        done |= {"name": "pay", "userland": {"id": "pay"}}
        return (200, "paid") if sent["steps"] else (206, [done])

    with served_app("shop") as app:
        app.register("pay")
        monkeypatch.setattr(app, "answer", answer)
        yield app


def test_calls_of_an_application_are_spans_and_carry_them(
    yard: Yard, app: RemoteApp, collector: Collector, sent_with: Any
) -> None:
    sent = sent_with(yard, "shop/pay")
    remote_work.work()
    received(collector)
    [function] = {span.attributes["runyard.function"] for span in collector.spans}
    assert sent.invocation.status == "succeeded"
    assert collector.tree(TRACE)[function] == {
        "queued": {},
        f"run {function}": {"POST": {}, "pay": {}, "POST again": {}},
    }
    calls = collector.named("POST")
    assert app.traces == [f"00-{TRACE}-{call.id}-01" for call in calls]
    assert [call.attributes["http.response.status_code"] for call in calls] == [206, 200]


def test_nothing_of_the_url_or_the_answer_of_an_application_is_in_a_span(
    yard: Yard, app: RemoteApp, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "shop/pay")
    remote_work.work()
    assert "POST" in {span.name for span in received(collector)}
    assert "token=secret" not in repr(collector.spans)
    assert SECRET not in repr(collector.spans)


def kept(sent: Any, *steps: dict[str, Any]) -> None:
    """Keep results of steps while a call goes on, as an SDK does by the endpoint."""
    context = sent["ctx"]
    body = {"run_id": context["run_id"], "qi_id": context["qi_id"], "steps": steps}
    checkpoint = parse_checkpoint(context["run_id"], json.dumps(body).encode())
    assert checkpoint is not None

    async def keep() -> str:
        async with CheckpointWriter() as writer:
            return await writer.keep(checkpoint)

    assert asyncio.run(keep()) == "kept"


def done(name: str) -> dict[str, Any]:
    """A step that took a second and a half, as SDKs write it."""
    step = {"op": "StepRun", "id": sha1(name.encode()).hexdigest(), "name": name, "data": 1}
    return {**step, "userland": {"id": name}, "timing": {"a": 0, "b": 1_500_000_000}}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(200, "paid")], ["POST", "first"]),
        ([(206, [done("second")]), (200, "paid")], ["POST", "POST", "first", "second"]),
        (
            [(206, [done("first"), done("second")]), (200, "paid")],
            ["POST", "POST", "first", "second"],
        ),
        ([(500, "sorry"), (200, "paid")], ["POST", "first"]),
    ],
    ids=["the end", "another step", "the step too", "an error"],
)
def test_a_step_that_an_application_keeps_during_a_call_is_a_span_whatever_it_answers(
    yard: Yard,
    app: RemoteApp,
    collector: Collector,
    sent_with: Any,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[tuple[int, Any]],
    expected: list[str],
) -> None:
    left = list(answers)

    def answer(path: str, sent: Any) -> tuple[int, Any]:
        if len(left) == len(answers):
            kept(sent, done("first"))
        return left.pop(0)

    monkeypatch.setattr(app, "answer", answer)
    sent_with(yard, "shop/pay")
    remote_work.work()
    received(collector)
    [function] = {span.attributes["runyard.function"] for span in collector.spans}
    [run] = collector.named(f"run {function}")
    assert sorted(span.name for span in collector.spans if span.parent == run.id) == expected
    [step] = collector.named("first")
    assert step.attributes["runyard.step.attempt"] == 1
    assert step.end - step.start == pytest.approx(1.5)


def test_an_application_that_does_not_answer_is_an_error_of_the_call(
    yard: Yard,
    app: RemoteApp,
    collector: Collector,
    sent_with: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "answer", lambda path, sent: (500, "sorry"))
    sent_with(yard, "shop/pay")
    remote_work.work()
    received(collector)
    [call] = collector.named("POST")
    assert call.failed
    assert call.attributes["error.type"] == "500"


# --- Sampling


def test_nothing_is_recorded_of_a_trace_that_its_sender_does_not_sample(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    headers: dict[str, str] = {}
    deeds["pick"] = lambda item: propagate.inject(headers)
    sent_with(yard, "traced/placed", TRACEPARENT[:-1] + "0")
    yard.work()
    assert received(collector) == []
    assert headers["traceparent"].startswith(f"00-{TRACE}-")
    assert headers["traceparent"].endswith("-00")
    traces = rows("SELECT trace FROM runyard.events WHERE name = 'traced/packed'")
    assert [row["trace"][:36] for row in traces] == [f"00-{TRACE}-"]
    assert traces[0]["trace"].endswith("-00")


def test_a_share_of_events_is_recorded_each_with_all_that_comes_of_it(
    yard: Yard, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    recording.sampler.cache_clear()
    sent = yard.send_all([runyard.Event("traced/placed") for _ in range(40)])
    yard.work()
    received(collector)
    sampled = {
        f"{trace_id:032x}"
        for each in sent
        if recording.samples(trace_id := contexts.trace_id_of_event(each.id), None)
    }
    monkeypatch.undo()
    recording.sampler.cache_clear()
    assert 0 < len(sampled) < 40
    assert {span.trace for span in collector.spans} == sampled
    assert all(collector.tree(one) == {"pack": PACKED} for one in sampled)


# --- A sender in Python


def test_the_python_client_sends_the_current_span_of_its_application(
    yard: Yard, collector: Collector
) -> None:
    with trace.get_tracer("shop").start_as_current_span("order") as span:
        sent = yard.send("traced/packed")
    yard.work()
    received(collector)
    assert list(collector.tree(f"{span.get_span_context().trace_id:032x}")["order"]) == ["post"]
    [row] = rows("SELECT trace FROM runyard.events WHERE id = %s", sent.id)
    assert (
        row["trace"]
        == f"00-{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}-01"
    )


def test_a_malformed_trace_in_sql_is_as_good_as_none(yard: Yard, collector: Collector) -> None:
    ulid = new_ulid()
    rows(
        "SELECT runyard.send_v1(jsonb_build_array(jsonb_build_object("
        "'ulid', %s::text, 'name', 'traced/packed', 'trace', 'nonsense')), 'sql')",
        ulid,
    )
    yard.work()
    received(collector)
    assert list(collector.tree(f"{contexts.trace_id_of_event(ulid):032x}")) == ["post"]


# --- Switched off

_RUN = """
import sys
from runyard.testing import Yard
from tests.features import traced
import runyard.gateway.app, runyard.processes.workers
with Yard(traced.defs) as yard:
    sent = yard.send("traced/placed")
    yard.work()
    print(sent.invocation.status, [name for name in sys.modules if "opentelemetry" in name])
"""


def run(**variables: str) -> str:
    """What a process says that sends an event and runs what it starts."""
    code = [sys.executable, "-c", _RUN]
    environment = {**os.environ, **variables}
    return subprocess.run(
        code, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.usefixtures("yard")
@pytest.mark.parametrize("variables", [{}, {"RUNYARD_TRACES": "off"}])
def test_opentelemetry_is_not_even_imported_while_traces_are_off(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNYARD_TRACES", raising=False)
    assert run(**variables).splitlines()[-1] == "succeeded []"


@pytest.mark.usefixtures("yard")
def test_a_process_delivers_what_it_has_when_it_ends() -> None:
    with Collector() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        run(RUNYARD_TRACES="otlp", OTEL_BSP_SCHEDULE_DELAY="3600000", **endpoint)
        assert {"pack", "post"} <= {span.name for span in collector.spans}


@pytest.mark.usefixtures("yard")
def test_a_process_ends_although_nothing_answers_at_the_collector() -> None:
    assert "succeeded" in run(
        RUNYARD_TRACES="otlp", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
    )


@pytest.mark.parametrize("text", ["caf\udce9.txt", "x" * 100_000])
def test_a_span_of_the_code_that_cannot_be_encoded_costs_no_other_one(
    yard: Yard, collector: Collector, sent_with: Any, text: str
) -> None:
    sent_with(yard, "traced/packed")
    for name in ("before", text, "after"):
        trace.get_tracer("shop").start_span(name).end()
    yard.work()
    received(collector)
    assert {"before", "after", "run post"} <= {span.name for span in collector.spans}


# --- A collector that is away


def test_a_collector_that_hangs_holds_up_no_run(
    yard: Yard, collector: Collector, sent_with: Any
) -> None:
    sent_with(yard, "traced/placed")
    yard.work()
    collector.mode = "hangs"
    before = collector.requests
    exports = threading.Thread(target=flush)
    exports.start()
    collector.wait_for(lambda collector: collector.requests > before)
    sent = sent_with(yard, "traced/placed")
    yard.work()
    assert sent.invocation.status == "succeeded"
    exports.join()  # an export gives up by itself
    collector.mode = "takes"


@pytest.mark.parametrize("mode", ["refuses", "redirects"])
def test_a_collector_that_takes_nothing_is_warned_of_once_in_a_while(
    yard: Yard, collector: Collector, sent_with: Any, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    collector.mode = mode
    exporting.exporter().warned_at = None
    for _ in range(3):
        sent_with(yard, "traced/placed")
        yard.work()
        flush()
    collector.mode = "takes"
    [line] = [record.getMessage() for record in caplog.records if "trace" in record.name]
    assert line.startswith(f"the collector at {collector.url} takes no traces (it answered ")


def test_spans_that_the_full_queue_drops_are_warned_of(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    own = exporting.Exporter()

    def record(count: int) -> None:
        for number in range(1, count + 1):
            own.record(Span("filler", TraceContext(1, number, sampled=True), None, 1.0, 2.0))

    collector.mode = "waits"
    before = collector.requests
    record(1)
    exports = threading.Thread(target=own.flush)
    exports.start()
    collector.wait_for(lambda collector: collector.requests > before)
    record(607)
    collector.mode = "takes"
    exports.join()
    own.close()
    assert [record.getMessage() for record in caplog.records if "trace" in record.name] == [
        f"the collector at {collector.url} takes traces too slowly, and 7 spans are lost: give it"
        " more resources, or record fewer traces (OTEL_TRACES_SAMPLER)"
    ]


# An export takes two seconds, and eight of them sixteen.
_SOON = 8.0
_ENDING = """
import time
from runyard.syntax.traceparent import TraceContext
from runyard.tracing import recording
from runyard.tracing.spans import Span

for number in range(1, 16_385):
    recording.record(Span("filler", TraceContext(1, number, sampled=True), None, 1.0, 2.0))
began = time.monotonic()
recording.end_recording()
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("mode", ["redirects", "never ends", "hangs"])
def test_a_process_that_ends_does_not_wait_for_an_odd_answer(mode: str) -> None:
    with Collector() as collector:
        collector.mode = mode
        assert float(ended_process(collector).stdout) < _SOON


def test_a_process_that_ends_waits_for_a_slow_collector_no_longer_than_for_one_that_hangs() -> None:
    with Collector() as collector:
        collector.seconds = 1.5  # for each of eight requests
        ended = ended_process(collector)
        taken = len(collector.spans)
    assert float(ended.stdout) < _SOON
    assert 0 < taken < 16_384
    [line] = ended.stderr.splitlines()
    assert "spans are lost" in line


def ended_process(collector: Collector) -> subprocess.CompletedProcess[str]:
    """What a process says that ends with many spans: how many seconds the export took."""
    code = [sys.executable, "-c", _ENDING]
    return subprocess.run(
        code,
        env=traced_environment(collector),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


# --- Processes that fork

_FORKING = """
import os, sys, threading, time
from runyard.syntax.traceparent import TraceContext
from runyard.tracing import recording
from runyard.tracing.spans import Span

def record(name):
    recording.record(Span(name, TraceContext(1, 2, sampled=True), None, 1.0, 2.0))

def record_on():
    while True:
        record("parent")
        time.sleep(0.0001)

recording.load()
threading.Thread(target=record_on, daemon=True).start()
for number in range(20):
    child = os.fork()
    if not child:
        record(f"child {number}")
        recording.end_recording()
        os._exit(0)
    until = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, 9)
            sys.exit(f"child {number} hangs")
        time.sleep(0.01)
"""
_IMPORTING = """
import sys
from runyard.syntax.traceparent import TraceContext
from runyard.tracing import exporting, recording
from runyard.tracing.spans import Span

recording.load()
loaded = set(sys.modules)
recording.record(Span("one", TraceContext(1, 2, sampled=True), None, 1.0, 2.0))
exporting.exporter().flush()
print(sorted(set(sys.modules) - loaded))
"""


def traced_environment(collector: Collector, **variables: str) -> dict[str, str]:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    return {**os.environ, "RUNYARD_TRACES": "otlp", **endpoint, **variables}


def test_children_that_are_forked_while_their_parent_exports_record_too() -> None:
    with Collector() as collector:
        environment = traced_environment(collector, OTEL_BSP_SCHEDULE_DELAY="1")
        subprocess.run([sys.executable, "-c", _FORKING], env=environment, check=True, timeout=120)
        names = {span.name for span in collector.spans}
    assert names == {"parent", *(f"child {number}" for number in range(20))}


def test_a_process_that_forks_has_imported_all_that_exporting_needs_before() -> None:
    with Collector() as collector:
        imported = subprocess.run(
            [sys.executable, "-c", _IMPORTING],
            env=traced_environment(collector),
            capture_output=True,
            text=True,
            check=True,
        )
        assert [span.name for span in collector.spans] == ["one"]
    assert imported.stdout == "[]\n"
