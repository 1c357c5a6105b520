"""Deploys that change flow control while transactions from before them are open.

No invocation is stranded, and every limit holds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from runyard import send
from runyard.engine import batch_claims, batch_leases, settlement
from runyard.engine.settlement import Outcome
from runyard.functions import registry
from runyard.functions.flow_control import Concurrency, Flow
from runyard.functions.registry import Function
from runyard.settings import settings
from tests.conftest import Publish
from tests.tables import rows

LIMITED = Flow(concurrency=(Concurrency(1, key="data.tenant"),))
BY_USER = Flow(concurrency=(Concurrency(1, key="data.user"),))
NAMES = {"plain": Flow(), "limited": LIMITED, "by user": BY_USER}
CHANGES = [("plain", "limited"), ("limited", "plain")]


def deploy(function: Function, flow: Flow, publish: Publish) -> Function:
    changed = replace(function, flow=flow)
    publish(changed)
    return changed


@contextmanager
def open_sender(
    url: str, *, before_the_event: bool
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A transaction from before a deploy: it has sent its event, or still sees the old schema."""
    with psycopg.connect(url) as sender:
        sender.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        if before_the_event:
            sender.execute("SELECT FROM runyard.functions")
        else:
            send_event(sender)
        yield sender


def send_event(sender: psycopg.Connection[tuple[object, ...]]) -> None:
    sender.execute("SELECT runyard.send('greet/requested', '{\"tenant\": 1, \"user\": 2}')")


def sizes(function: Function) -> list[int]:
    return [claim.size for claim in batch_claims.claim(function) or []]


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("before_the_event", [True, False])
def test_an_event_of_a_transaction_that_is_open_across_a_deploy_is_claimed(
    function: Function,
    store_url: str,
    publish_functions: Publish,
    before: str,
    after: str,
    before_the_event: bool,
) -> None:
    deploy(function, NAMES[before], publish_functions)
    with open_sender(store_url, before_the_event=before_the_event) as sender:
        changed = deploy(function, NAMES[after], publish_functions)
        if before_the_event:
            send_event(sender)
        sender.commit()
    registry.rekey()
    assert sizes(changed) == [1]


@pytest.mark.parametrize("before", ["plain", "by user"])
def test_a_deploys_new_limit_applies_to_events_of_open_transactions(
    function: Function, store_url: str, publish_functions: Publish, before: str
) -> None:
    deploy(function, NAMES[before], publish_functions)
    with open_sender(store_url, before_the_event=True) as sender:
        changed = deploy(function, LIMITED, publish_functions)
        for user in range(3):
            sender.execute(
                "SELECT runyard.send('greet/requested', jsonb_build_object('tenant', 1, 'user',"
                " %s::int))",
                (user,),
            )
        sender.commit()
    assert sizes(changed) == [1]


def test_what_ran_during_a_deploy_comes_back_with_the_new_keys(
    function: Function, publish_functions: Publish
) -> None:
    send("greet/requested", {"tenant": 1})
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    changed = deploy(function, LIMITED, publish_functions)
    settlement.settle(claim.batch_id, "run-1", [Outcome(1, "queued", attempt=1)])
    assert sizes(changed) == [1]


def test_what_failed_before_a_deploy_can_be_replayed_after_it(
    function: Function, publish_functions: Publish
) -> None:
    send("greet/requested", {"tenant": 1})
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    settlement.settle(claim.batch_id, "run-1", [Outcome(1, "failed")])
    changed = deploy(function, LIMITED, publish_functions)
    rows("SELECT runyard.replay(1)")
    assert sizes(changed) == [1]


def test_another_transactions_locks_do_not_block_a_deploy(
    function: Function,
    other_connection: psycopg.Connection[tuple[object, ...]],
    publish_functions: Publish,
) -> None:
    send("greet/requested", {"tenant": 1})
    send("greet/requested", {"tenant": 2})
    other_connection.execute("SELECT FROM runyard.invocations WHERE id = 1 FOR UPDATE")
    changed = deploy(function, LIMITED, publish_functions)
    assert sizes(changed) == [1]
    other_connection.rollback()
    assert sizes(changed) == [1]


def test_a_claim_rekeys_more_than_one_chunk_of_events_sent_across_a_deploy(
    function: Function, store_url: str, publish_functions: Publish
) -> None:
    with open_sender(store_url, before_the_event=True) as sender:
        changed = deploy(function, LIMITED, publish_functions)
        sender.execute(
            "SELECT runyard.send('greet/requested', jsonb_build_object('tenant', mod(n, 2)))"
            " FROM generate_series(1, 5200) AS n"
        )
        sender.commit()
    assert sizes(changed) == [2]


def test_a_deploy_that_changes_no_keys_changes_no_generation(
    function: Function, publish_functions: Publish
) -> None:
    deploy(function, replace(LIMITED, priority=3), publish_functions)
    before = rows("SELECT generation FROM runyard.functions")
    deploy(function, LIMITED, publish_functions)
    assert rows("SELECT generation FROM runyard.functions") == before


# --- functions that are absent for some versions


@pytest.fixture
def version(function: Function, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A number that no earlier version had."""
    yield time.monotonic_ns()
    monkeypatch.undo()
    settings.cache_clear()


def another(name: str, version: int) -> Function:
    return Function(name, "other_job", (f"other/v{version}",))


def test_another_code_location_ends_no_function(
    function: Function, version: int, publish_functions: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_CODE", "other.definitions")
    settings.cache_clear()
    publish_functions(another("elsewhere", version))
    send("greet/requested")
    assert sizes(function) == [1]


@pytest.fixture
def newer(function: Function, version: int, publish_functions: Publish) -> Function:
    """A function of a version that was deployed after the one with `function` alone."""
    newer = another("newer", version)
    publish_functions(function)
    publish_functions(replace(function, flow=LIMITED), newer)
    return newer


def silence_publishers() -> None:
    """Let all code servers have been silent for a minute."""
    rows(
        "UPDATE runyard.publications SET seen_at = seen_at - interval '1 minute' RETURNING location"
    )


def is_limited() -> bool:
    [row] = rows("SELECT uses_lanes FROM runyard.functions WHERE name = 'greet'")
    return bool(row["uses_lanes"])


def test_an_older_version_that_starts_beside_a_newer_one_ends_no_function(
    function: Function, newer: Function, version: int
) -> None:
    with registry.use(function):
        assert not registry.publish(beside=True)
    send(f"other/v{version}")
    assert sizes(newer) == [1]


def test_an_older_version_that_starts_beside_a_newer_one_changes_no_flow_control(
    function: Function, newer: Function
) -> None:
    with registry.use(function):
        registry.publish(beside=True)
    assert is_limited()


def test_the_newer_version_stays_when_the_older_one_goes_on(
    function: Function, newer: Function
) -> None:
    with registry.use(function):
        registry.stay_published()
    assert is_limited()


def test_an_older_version_takes_its_place_again_when_the_newer_one_is_gone(
    function: Function, newer: Function, version: int
) -> None:
    silence_publishers()
    with registry.use(function):
        registry.stay_published()
    send(f"other/v{version}")
    assert sizes(newer) == []
    assert not is_limited()


def test_a_newer_version_that_runs_keeps_its_place(function: Function, newer: Function) -> None:
    silence_publishers()
    registry.stay_published()
    with registry.use(function):
        assert not registry.publish(beside=True)


def test_an_older_version_that_runs_alone_takes_its_place_again_at_once(
    function: Function, newer: Function, version: int, publish_functions: Publish
) -> None:
    publish_functions(function)
    send(f"other/v{version}")
    assert sizes(newer) == []
    assert not is_limited()


def test_a_function_that_the_code_has_no_more_is_not_started(
    function: Function, version: int, publish_functions: Publish
) -> None:
    publish_functions(another("newer", version))
    send("greet/requested")
    assert sizes(function) == []


def test_what_came_while_a_function_was_away_starts_it_when_it_is_back(
    function: Function, version: int, publish_functions: Publish
) -> None:
    send("greet/requested", {"n": 1})
    publish_functions(another("newer", version))
    send("greet/requested", {"n": 2})
    send("greet/another", {"n": 3})
    publish_functions(function)
    registry.catch_up()
    found = rows(
        "SELECT data->>'n' AS n FROM runyard.invocations"
        " JOIN runyard.events ON events.id = event_id WHERE function = 'greet' ORDER BY 1"
    )
    assert [row["n"] for row in found] == ["1", "2"]


def test_what_was_meant_for_a_function_alone_while_it_was_away_starts_it_when_it_is_back(
    function: Function, version: int, publish_functions: Publish
) -> None:
    publish_functions(another("newer", version))
    rows(
        'SELECT runyard.send_v1(\'[{"name": "runyard/function.invoked", "target": "greet"}]\','
        " 'step')"
    )
    publish_functions(function)
    assert sizes(function) == [1]


def test_a_sender_that_saw_a_function_away_and_commits_after_it_is_back_starts_it(
    function: Function, version: int, store_url: str, publish_functions: Publish
) -> None:
    publish_functions(another("newer", version))
    with psycopg.connect(store_url) as sender:
        send_event(sender)
        publish_functions(function)
        sender.commit()
    registry.catch_up()
    assert sizes(function) == [1]


def test_what_is_older_than_a_day_starts_nothing(
    function: Function, version: int, publish_functions: Publish
) -> None:
    publish_functions(another("newer", version))
    send("greet/requested")
    rows("UPDATE runyard.events SET received_at = received_at - interval '25 hours' RETURNING id")
    rows(
        "UPDATE runyard.functions SET removed_at = removed_at - interval '26 hours' RETURNING name"
    )
    publish_functions(function)
    assert sizes(function) == []


def test_a_function_that_has_been_back_for_a_while_has_nothing_left_to_take_up(
    function: Function, version: int, publish_functions: Publish
) -> None:
    publish_functions(another("newer", version))
    publish_functions(function)
    rows(
        "UPDATE runyard.functions SET restored_at = restored_at - interval '2 minutes'"
        " RETURNING name"
    )
    registry.catch_up()
    assert rows("SELECT name FROM runyard.functions WHERE restored_snapshot IS NOT NULL") == []
