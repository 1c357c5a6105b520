"""Bulk actions: counted first, in chunks, resumable, nothing twice."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from dagster import DagsterInstance

from runyard import Event, InvalidOption
from runyard.dagster_adapter import builtin
from runyard.engine import bulk
from runyard.engine.bulk import Selection, count, perform, resume
from runyard.testing import Yard
from tests.tables import rows


@pytest.fixture
def failed(yard: Yard) -> Yard:
    """Thirty invocations of `plain`, a third of them failed, and ten of `wild`, all succeeded."""
    yard.send_all(
        [
            Event(
                "plain/go",
                {
                    "n": n,
                    "fails": 9 * (n % 3 == 0),
                    "kind": "final",
                    "country": "CH" if n < 15 else "DE",
                },
            )
            for n in range(30)
        ]
    )
    yard.send_all([Event("shop/sold", {"n": n}) for n in range(10)])
    yard.work()
    return yard


@pytest.mark.parametrize(
    ("selection", "action", "total"),
    [
        (Selection(function="plain"), "replay", 10),
        (Selection(function="plain", status=("succeeded",)), "replay", 20),
        (Selection(function="plain", filter='$.data.country == "CH"'), "replay", 5),
        (Selection(error="FAILURE 1"), "replay", 10),
        (Selection(error="100%"), "replay", 0),
        (Selection(function="plain"), "cancel", 0),
        (Selection(function="plain"), "dismiss", 10),
        (Selection(invocations=(1, 2)), "replay", 2),
    ],
)
def test_a_selection_is_counted_and_nothing_is_changed(
    failed: Yard, selection: Selection, action: Any, total: int
) -> None:
    before = rows("SELECT count(*) AS n FROM runyard.invocations")
    assert count(selection, action) == total
    assert rows("SELECT count(*) AS n FROM runyard.invocations") == before


def test_a_selection_by_time_includes_every_finished_invocation(failed: Yard) -> None:
    failed.advance("1h")
    failed.send("plain/go", {"n": 99})
    failed.work()
    lately, yesterday = failed.now - timedelta(minutes=5), failed.now - timedelta(days=1)
    assert count(Selection(function="plain", since=lately), "replay") == 1
    before = Selection(function="plain", since=yesterday, until=lately)
    assert count(before, "replay") == 30


def test_a_bulk_replay_replays_each_failure_once(
    failed: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 4)
    failed.stub("work", "mended")
    progress = list(perform(Selection(function="plain"), "replay"))
    assert [step.done for step in progress] == [0, 4, 8, 10]
    assert progress[-1].finished
    failed.work()
    replays = rows("SELECT replay_of, status FROM runyard.invocations WHERE replay_of IS NOT NULL")
    assert len({row["replay_of"] for row in replays}) == 10
    assert len(replays) == 10
    assert {row["status"] for row in replays} == {"succeeded"}
    assert count(Selection(function="plain"), "replay") == 0


def test_a_bulk_that_was_stopped_resumes_and_does_nothing_twice(
    failed: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 4)
    started = perform(Selection(function="plain"), "replay")
    bulk_id = next(started).bulk
    next(started)
    started.close()
    assert [(row["done"], row["finished_at"]) for row in bulk.bulks()] == [(4, None)]
    assert list(resume(bulk_id))[-1].done == 10
    assert list(resume(bulk_id))[-1].finished
    replays = rows("SELECT replay_of FROM runyard.invocations WHERE replay_of IS NOT NULL")
    assert set(Counter(row["replay_of"] for row in replays).values()) == {1}
    assert len(replays) == 10


def test_a_bulk_cancel_ends_suspended_invocations(yard: Yard) -> None:
    sent = yard.send_all([Event("sleeper/go", {"n": n}) for n in range(20)])
    yard.work()
    selection = Selection(function="sleeper", filter="$.data.n < 5")
    assert list(perform(selection, "cancel"))[-1].done == 5
    assert Counter(each.invocation.status for each in sent) == {"cancelled": 5, "sleeping": 15}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Selection(), "select something"),
        (lambda: Selection(status=("done",)), "does not exist; use queued"),
        (lambda: Selection(filter="$.x >"), "character"),
        (
            lambda: count(Selection(status=("queued",)), "replay"),
            "cannot replay invocations that are queued",
        ),
    ],
)
def test_a_wrong_selection_is_rejected(yard: Yard, make: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        make()


def test_a_partition_of_the_replay_job_is_a_day(failed: Yard) -> None:
    config = {
        "ops": {"replay_invocations": {"config": {"function": "plain", "status": ["failed"]}}}
    }
    with DagsterInstance.ephemeral() as instance:
        day = f"{failed.now:%Y-%m-%d}"
        result = builtin.replay_function.execute_in_process(
            partition_key=day, run_config=config, instance=instance
        )
        assert result.success
        before = builtin.replay_function.execute_in_process(
            partition_key=f"{failed.now - timedelta(days=2):%Y-%m-%d}",
            run_config=config,
            instance=instance,
        )
        assert before.success
    assert len(rows("SELECT FROM runyard.invocations WHERE replay_of IS NOT NULL")) == 10
