"""The roles of `deploy/postgres` may do what they are for, and nothing else."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import dict_row

from runyard import Event, send
from runyard.functions import flow_control as flow
from runyard.functions.registry import Function
from runyard.functions.triggers import Trigger
from runyard.store.embedded_access import SUPERUSER
from tests.conftest import ROOT, Publish, use_database
from tests.deploy.manifests import DEPLOY, objects
from tests.tables import empty_tables, rows

_SQL = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Connection = psycopg.Connection[dict[str, Any]]
FORBIDDEN = [
    "SELECT data FROM runyard.events",
    "SELECT output FROM runyard.invocations",
    "SELECT * FROM runyard.steps",
    "SELECT * FROM runyard.keys",
    "UPDATE runyard.events SET data = '{}'",
    "UPDATE runyard.invocations SET status = 'succeeded'",
    "DELETE FROM runyard.events",
    "DELETE FROM runyard.invocations",
    "SELECT runyard.cancel(1)",
    "SELECT * FROM public.runs",
]


@pytest.fixture(scope="module")
def database(server: str) -> str:
    """The URL of a database whose roles are granted."""
    url = use_database(server, "roles")
    with psycopg.connect(_as_superuser(url), autocommit=True) as connection:
        for name in ("sender", "scaler"):
            connection.execute((DEPLOY / "postgres" / f"{name}.sql").read_bytes())
    return url


def _as_superuser(url: str) -> str:
    return url.replace("//runyard@", f"//{SUPERUSER}@")


def _session(url: str, role: str) -> Connection:
    connection = psycopg.connect(_as_superuser(url), autocommit=True, row_factory=dict_row)
    connection.execute(f"SET SESSION AUTHORIZATION {role}".encode())
    return connection


@pytest.fixture
def sender(database: str) -> Iterator[Connection]:
    """A connection of a role that may only send."""
    with _session(database, "runyard_sender") as connection:
        yield connection


@pytest.fixture(autouse=True)
def functions(database: str, publish_functions: Publish) -> None:
    """Functions with every rule that counts at the moment of sending."""
    empty_tables()
    every_rule = flow.Flow(
        concurrency=(flow.Concurrency(5, key="data.user"),),
        priority=flow.Priority("data.urgency"),
        timeouts=flow.Timeouts(start="1h"),
        cancel_on=(flow.CancelOn("order/cancelled", match="data.order"),),
    )
    late = flow.Flow(batch=flow.BatchEvents(timeout="5m"))
    publish_functions(
        Function("plain", "plain_job", ("order/placed",)),
        Function("ruled", "ruled_job", (Trigger("order/*", "$.data.total > 1"),), flow=every_rule),
        Function(
            "late",
            "late_job",
            (Trigger("order/placed", condition="event.data.total > 1"),),
            flow=late,
        ),
        Function("stopped", "stopped_job", ("order/placed",)),
    )


@pytest.fixture
def scaler(database: str) -> Iterator[Connection]:
    """A connection of the role of the scaler."""
    with _session(database, "runyard_scaler") as connection:
        yield connection


def placed(total: int, **more: Any) -> Event:
    data = {"order": 7, "user": 1, "total": total, "urgency": 3}
    return Event("order/placed", data, **more)


def invocations() -> list[str]:
    return [row["function"] for row in rows("SELECT function FROM runyard.invocations ORDER BY 1")]


def test_a_sender_starts_functions_with_every_rule(sender: Connection) -> None:
    send(placed(2), connection=sender)
    assert invocations() == ["late", "plain", "ruled", "stopped"]


def test_a_sender_sends_in_sql(sender: Connection) -> None:
    sender.execute("SELECT runyard.send('order/placed', '{\"total\": 2}')")
    assert invocations() == ["late", "plain", "ruled", "stopped"]


def test_a_sender_repeats_an_event_without_effect(sender: Connection) -> None:
    first = send(placed(1, id="order-7"), connection=sender)
    assert send(placed(1, id="order-7"), connection=sender) == first
    assert invocations() == ["plain", "stopped"]


def test_a_sender_may_keep_its_transaction_open_beyond_the_start_of_a_timeout(
    sender: Connection,
) -> None:
    with sender.transaction():
        send(placed(2), connection=sender)
        sender.execute("SELECT pg_sleep(1.1)")
    assert "ruled" in invocations()


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_a_sender_may_do_nothing_else(sender: Connection, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        sender.execute(statement.encode())


def test_a_role_with_a_function_of_its_own_may_send_that_event_and_nothing_else(
    database: str,
) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [script] = [block for block in _SQL.findall(page) if "SECURITY DEFINER" in block]
    with psycopg.connect(_as_superuser(database), autocommit=True) as connection:
        connection.execute(script.encode())
    with _session(database, "till") as till:
        till.execute("SELECT shop.order_placed(7)")
        for statement in (*FORBIDDEN, "SELECT runyard.send('order/placed')"):
            with pytest.raises(InsufficientPrivilege):
                till.execute(statement.encode())
    assert rows("SELECT data FROM runyard.events") == [{"data": {"order": 7}}]


@pytest.mark.parametrize("statement", [*FORBIDDEN, "SELECT runyard.send('order/placed')"])
def test_the_scaler_may_only_count(scaler: Connection, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        scaler.execute(statement.encode())


def queries() -> dict[str, str]:
    """The queries of the scaler, by the name of their trigger."""
    [scaled] = [each for each in objects() if each["kind"] == "ScaledObject"]
    return {each["name"]: each["metadata"]["query"] for each in scaled["spec"]["triggers"]}


def number(connection: Connection, query: str) -> float:
    """The number that a query gives, in the only row and column."""
    [row] = connection.execute(query.encode()).fetchall()
    [value] = row.values()
    return float(value)


def test_the_scaler_counts_what_is_due_and_not_paused(
    scaler: Connection, sender: Connection
) -> None:
    rows("UPDATE runyard.functions SET paused_at = now() WHERE name = 'stopped' RETURNING 1")
    send([placed(2), placed(1)], connection=sender)
    # `late` is not due, and `stopped` is paused.
    assert number(scaler, queries()["due"]) == len(["plain", "plain", "ruled"])


def test_the_scaler_sees_for_how_long_the_oldest_has_been_due(
    scaler: Connection, sender: Connection
) -> None:
    assert number(scaler, queries()["oldest"]) == 0
    send(placed(1), connection=sender)
    rows("UPDATE runyard.invocations SET due_at = due_at - interval '90 s' RETURNING 1")
    assert 90 <= number(scaler, queries()["oldest"]) < 150


@pytest.mark.parametrize("name", ["due", "oldest"])
def test_the_scaler_reads_the_queue_by_indexes(scaler: Connection, name: str) -> None:
    scaler.execute("SET enable_seqscan = off")
    plan = scaler.execute(f"EXPLAIN {queries()[name]}".encode()).fetchall()
    text = "\n".join(str(row["QUERY PLAN"]) for row in plan)
    assert "invocations_due" in text
    assert "invocations_keyed" in text
