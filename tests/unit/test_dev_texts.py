"""The texts of what blocks an invocation and what it did when, made from rows alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runyard import Concurrency, Debounce, RateLimit, Singleton, Throttle
from runyard.errors import InvalidOption
from runyard.functions.flow_control import BatchEvents, CancelOn, Flow, Idempotency, Timeouts
from runyard.functions.registry import Function
from runyard.gateway.api.schemas import FullInvocation, LogView
from runyard.gateway.dev.blockers import reasons
from runyard.gateway.dev.functions import flow_words
from runyard.gateway.dev.search import as_filter
from runyard.gateway.dev.timeline import timeline

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def row(flow: Flow | None = None, **changed: Any) -> dict[str, Any]:
    """A row of `holding`: queued, due, with an idle worker."""
    function = Function("mail", "mail_job", ("mail/sent",), flow=flow or Flow())
    made = function.to_row()
    return {
        "status": "queued",
        "attempt": 0,
        "crashes": 0,
        "due_at": NOW,
        "now": NOW,
        "keys": ["7"] if function.flow.uses_lanes else None,
        "admitted": True,
        "begun": False,
        "cancel_requested_at": None,
        "active": True,
        "paused_at": None,
        "flow": made["flow"],
        "key_paths": made["key_paths"],
        "max_batch": function.largest,
        "held": [],
        "throttled_until": None,
        "unlaunched": None,
        "held_until": None,
        **changed,
    }


def said(found: dict[str, Any], slots: int = 2, busy: int = 0, waits: Any = ()) -> list[str]:
    return [reason.text for reason in reasons(found, waits, slots, busy)]


def test_a_full_limit_is_named_with_its_key_and_numbers() -> None:
    flow = Flow(concurrency=(Concurrency(2, key="data.tenant"), Concurrency(9, scope="crm")))
    held = [
        {"scope": "mail 0", "key": "7", "n": 2},
        {"scope": "mail 0", "key": "8", "n": 1},
        {"scope": "shared crm", "key": "", "n": 9},
    ]
    assert said(row(flow, held=held)) == [
        "waiting: 2 of 2 running for tenant 7",
        "waiting: 9 of 9 running, across all functions that share 'crm'",
    ]
    assert said(row(flow, held=held[1:2])) == ["waiting: it runs with the next batch"]
    assert said(
        row(
            Flow(singleton=Singleton(key="data.tenant")),
            held=[{"scope": "mail singleton", "key": "7", "n": 1}],
        )
    ) == ["waiting: 1 of 1 running for tenant 7 (a singleton)"]


def test_a_throttle_says_when_the_next_one_begins() -> None:
    flow = Flow(throttle=Throttle(6, 60, key="data.tenant", burst=2))
    [reason] = reasons(row(flow, throttled_until=NOW + timedelta(seconds=15)), [], 2, 0)
    assert reason.text == "waiting: throttled to one every 10 s for tenant 7"
    assert reason.until == NOW + timedelta(seconds=5)
    assert said(row(flow, throttled_until=NOW + timedelta(seconds=10))) == [
        "waiting: it runs with the next batch"
    ]


def test_one_that_lost_two_workers_says_that_it_runs_apart() -> None:
    assert said(row(crashes=1)) == ["waiting: it runs with the next batch"]
    assert said(row(crashes=2)) == [
        "waiting: 2 workers died while running it, so it runs on its own, one such run at a time"
    ]


def test_due_times_pauses_and_missing_workers_are_shown() -> None:
    later = NOW + timedelta(minutes=1)
    assert said(row(attempt=2, begun=True, due_at=later)) == [
        "waiting: attempt 3 of the failed step"
    ]
    assert said(row(due_at=later)) == ["it is scheduled"]
    assert said(row(Flow(debounce=Debounce(60)), due_at=later))[0].startswith("debounced")
    assert (
        "a batch is being collected" in said(row(Flow(batch=BatchEvents(20, 60)), due_at=later))[0]
    )
    assert said(row(paused_at=NOW)) == [
        "waiting: its function is paused; resume the function to run it"
    ]
    assert "no longer has this function" in said(row(active=False))[0]
    [reason] = reasons(
        row(unlaunched="its run could not be launched (no broker)", held_until=later), [], 2, 0
    )
    assert (reason.text, reason.until) == (
        "waiting: its run could not be launched (no broker)",
        later,
    )
    assert said(row(), slots=0)[0].startswith("waiting: no warm worker is alive")
    assert said(row(status="claimed"), busy=2) == ["waiting: all 2 worker slots are busy"]
    waits = [
        {"step": "nap", "kind": "sleep", "event": None, "until": later},
        {"step": "answer", "kind": "event", "event": "a/b", "until": later},
    ]
    assert said(row(status="waiting"), waits=waits) == [
        "sleeping at nap",
        "waiting at answer for the event a/b or the timeout",
    ]
    assert said(row(status="succeeded")) == [] == said(row(status="running"))
    assert "is being cancelled" in said(row(status="running", cancel_requested_at=NOW))[0]


def test_flow_control_in_words() -> None:
    flow = Flow(
        concurrency=(Concurrency(2, key="data.tenant"),),
        throttle=Throttle(60, 60),
        rate_limit=RateLimit(5, "1h", key="user.id"),
        idempotency=Idempotency("data.order"),
        timeouts=Timeouts(finish=90),
        cancel_on=(CancelOn("order/cancelled"),),
        priority=3,
    )
    assert flow_words(Function("mail", "mail_job", ("mail/sent",), flow=flow).to_row()) == [
        "2 at a time for each data.tenant",
        "once in 1 d for each data.order",
        "5 in 1 h for each user.id",
        "throttled to one every 1 s, bursts of 1",
        "priority 3",
        "must finish within 90 s",
        "cancelled by order/cancelled",
    ]


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("data.to = ada@example.com", '$."data"."to" == "ada@example.com"'),
        ("data.n=7", '$."data"."n" == "7" || $."data"."n" == 7'),
        ("data.ok = true", '$."data"."ok" == "true" || $."data"."ok" == true'),
        ('data.n = "7"', '$."data"."n" == "7"'),
        ("user.id", 'exists($."user"."id")'),
        ("$.data.total > 100", "$.data.total > 100"),
        ("data.to ==", '$."data"."to" == "="'),
        ("data = = 2", '$."data" == "= 2"'),
    ],
)
def test_a_path_in_the_data_is_read(typed: str, path: str) -> None:
    assert as_filter(typed) == path


@pytest.mark.parametrize("typed", ["what is this", "nothing.here = 1", "$.data."])
def test_an_invalid_path_is_rejected_with_how_to_write_one(typed: str) -> None:
    with pytest.raises(InvalidOption, match="path"):
        as_filter(typed)


def invocation(**changed: Any) -> FullInvocation:
    return FullInvocation.model_validate(
        {
            "id": 1,
            "event_id": "e",
            "function": "mail",
            "status": "succeeded",
            "attempt": 2,
            "priority": 0,
            "created_at": NOW,
            "due_at": NOW,
            "started_at": at(1),
            "finished_at": at(20),
            "run_id": "r2",
            "replay_of": None,
            "leader_id": None,
            "output": 3,
            "error": None,
            "dismissed_at": None,
            "steps": [],
            "waits": [],
            "progress": None,
            **changed,
        }
    )


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def step(name: str, run: str, begin: float, end: float) -> dict[str, Any]:
    return {
        "step": name,
        "tries": 1,
        "output": None,
        "error": None,
        "run_id": run,
        "started_at": at(begin),
        "finished_at": at(end),
    }


def test_runs_and_waits_stand_in_order_with_their_steps() -> None:
    error = {"step": "send", "type": "OSError", "message": "away", "traceback": ""}
    parts = [{"run_id": "r1", "status": "queued", "error": error, "ended_at": at(4)}]
    batches = [
        {"run_id": "r1", "worker": "w", "claimed_at": at(1), "started_at": at(2), "size": 5},
        {"run_id": "r2", "worker": "w", "claimed_at": at(14), "started_at": at(14), "size": 1},
    ]
    found = timeline(
        invocation(
            steps=[
                step("render", "r1", 2, 3),
                step("send", "r2", 15, 18),
                step("old", "r0", -9, -8),
            ]
        ),
        parts,
        batches,
        [],
        at(30),
    )
    assert [(span.kind, span.seconds) for span in found.spans] == [
        ("queued", 1),
        ("claimed", 1),
        ("run", 2),
        ("backoff", 10),
        ("run", 6),
    ]
    first, second = (span for span in found.spans if span.kind == "run")
    assert [(one.name, one.status, one.begin, one.width) for one in first.steps] == [
        ("render", "succeeded", 0, 50),
        ("send", "failed", 50, 50),
    ]
    assert (first.size, first.worker, second.status) == (5, "w", "succeeded")
    assert [(one.name, one.begin, one.width) for one in second.steps] == [
        ("send", pytest.approx(16.67), 50)
    ]
    assert [one.step for one in found.reused] == ["old"]


def test_a_running_span_has_no_end_yet() -> None:
    parts = [{"run_id": "r1", "status": "sleeping", "error": None, "ended_at": at(4)}]
    batches = [{"run_id": "r1", "worker": "w", "claimed_at": at(1), "started_at": at(1), "size": 1}]
    sleeping = timeline(
        invocation(status="sleeping", finished_at=None, run_id="r1"), parts, batches, [], at(30)
    )
    assert [(span.kind, span.end is None) for span in sleeping.spans] == [
        ("queued", False),
        ("run", False),
        ("sleeping", True),
    ]
    running = timeline(
        invocation(status="running", finished_at=None, run_id="r2"), parts, batches, [], at(30)
    )
    assert (running.spans[-1].kind, running.spans[-1].status, running.spans[-1].end) == (
        "run",
        "running",
        None,
    )
    fresh = timeline(
        invocation(status="queued", finished_at=None, run_id=None, started_at=None),
        [],
        [],
        [],
        at(30),
    )
    assert [(span.kind, span.end) for span in fresh.spans] == [("queued", None)]
    skipped = timeline(
        invocation(status="skipped", run_id=None, started_at=None), [], [], [], at(30)
    )
    assert [(span.kind, span.end) for span in skipped.spans] == [("queued", at(20))]
    parts = [{"run_id": "r1", "status": "queued", "error": None, "ended_at": at(4)}]
    given_up = timeline(invocation(status="cancelled", run_id="r1"), parts, [], [], at(30))
    assert [(span.kind, span.end) for span in given_up.spans][-1] == ("backoff", at(20))


def a_log(step: str, run: str) -> LogView:
    return LogView(step=step, run_id=run, attempt=2, lines=[], dropped=3)


def test_a_log_stands_under_its_step_in_its_run() -> None:
    batches = [{"run_id": "r1", "worker": "w", "claimed_at": at(1), "started_at": at(1), "size": 1}]
    steps = [step("render", "r1", 2, 3), step("send", "r1", 4, 5)]
    logs = [a_log("send", "r1"), a_log("render", "r0")]
    found = timeline(invocation(steps=steps, run_id="r1"), [], batches, logs, at(30))
    assert [(one.name, one.log) for one in found.spans[-1].steps] == [
        ("render", None),
        ("send", logs[0]),
    ]


def test_a_step_that_has_only_logged_so_far_is_running() -> None:
    running = invocation(status="running", finished_at=None, run_id="r1")
    found = timeline(running, [], [], [a_log("send", "r1")], at(30))
    assert [(one.name, one.status, one.tries) for one in found.spans[-1].steps] == [
        ("send", "running", 2)
    ]


def test_a_step_that_ended_with_its_process_is_unfinished() -> None:
    lost = [{"run_id": "r1", "status": "lost", "error": None, "ended_at": at(4)}]
    waiting = invocation(status="queued", finished_at=None, run_id="r1")
    found = timeline(waiting, lost, [], [a_log("send", "r1")], at(30))
    shown = next(span for span in found.spans if span.kind == "run").steps
    assert [(one.name, one.status) for one in shown] == [("send", "unfinished")]
