"""Applications in the database, and the events that tell of their functions' ends."""

import json
from typing import Any

import pytest

from runyard.apps import catalog
from runyard.apps.registration import parse_registration
from runyard.apps.run_ids import invocation_of, run_id
from runyard.client import send
from runyard.errors import InvalidOption
from runyard.events import Event
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes.checks import all_checks
from runyard.store import database
from tests.tables import rows

URL = "http://localhost:3000/api/inngest"


@pytest.fixture(autouse=True)
def no_apps(empty: None) -> None:
    """Begin without applications."""
    with database.connection() as connection:
        connection.execute("TRUNCATE runyard.apps, runyard.app_functions")
        connection.execute("DELETE FROM runyard.triggers")
        connection.execute("DELETE FROM runyard.functions")


def write(*functions: dict[str, Any], app: str = "shop") -> bool:
    body = {"appName": app, "url": URL, "functions": functions}
    return catalog.write(parse_registration(json.dumps(body).encode()))


def hello(**more: Any) -> dict[str, Any]:
    return {"id": "shop-hello", "name": "Hello", "triggers": [{"event": "shop/sold"}], **more}


FAILURE = {
    "id": "shop-hello-failure",
    "triggers": [
        {
            "event": "inngest/function.failed",
            "expression": "event.data.function_id == 'shop-hello'",
        }
    ],
}


def end(status: str, function: str = "shop_hello", **error: str) -> dict[str, Any]:
    """End the open invocation of a function; return it."""
    [row] = rows(
        "UPDATE runyard.invocations SET status = %s, output = %s, error = %s, finished_at = now()"
        " WHERE function = %s AND finished_at IS NULL RETURNING id, created_at",
        status,
        '{"sum": 3}' if status == "succeeded" else None,
        json.dumps(error) if error else None,
        function,
    )
    return row


def events(name: str) -> list[dict[str, Any]]:
    return rows("SELECT id, data FROM runyard.events WHERE name = %s ORDER BY received_at", name)


def test_a_process_without_the_code_finds_a_function() -> None:
    write(hello(concurrency=3))
    found = registry.find("shop_hello")
    assert found is not None
    assert [limit.limit for limit in found.flow.concurrency] == [3]


def test_a_function_is_found_by_its_id_in_the_protocol() -> None:
    write(hello())
    found = catalog.remote_function_of("shop-hello")
    assert found is not None
    assert (found.function.name, found.app, found.title, found.url) == (
        "shop_hello",
        "shop",
        "Hello",
        URL,
    )


def test_a_changed_function_is_found_as_it_is_now() -> None:
    write(hello())
    assert registry.find("shop_hello") is not None
    assert write(hello(concurrency=7)) is True
    found = registry.find("shop_hello")
    assert found is not None
    assert [limit.limit for limit in found.flow.concurrency] == [7]


def test_a_function_that_is_gone_is_still_found_for_its_runs() -> None:
    write(hello())
    write()
    assert catalog.remote_function("shop_hello") is not None
    assert rows("SELECT active FROM runyard.functions") == [{"active": False}]


def test_the_same_again_is_no_change() -> None:
    assert (write(hello()), write(hello())) == (True, False)


def code(*names: str) -> list[Function]:
    """Functions that the project's code has."""
    return [Function(name, name, (f"{name}/sent",)) for name in names]


def owners() -> dict[str, str]:
    found = rows("SELECT name, location FROM runyard.functions WHERE active ORDER BY name")
    return {row["name"]: row["location"].partition(" ")[0] for row in found}


def test_a_name_of_the_code_is_not_taken_over() -> None:
    with registry.use(*code("shop_hello")):
        registry.publish()
    before = owners()
    other = {"id": "shop-other", "triggers": [{"event": "shop/other"}]}
    with pytest.raises(InvalidOption, match="shop-hello would be called shop_hello here, and the"):
        write(other, hello())
    assert owners() == before


def test_code_that_comes_later_does_not_take_over_a_name() -> None:
    write(hello())
    with (
        registry.use(*code("other", "shop_hello")),
        pytest.raises(InvalidOption, match="shop-hello of the application shop: give this one"),
    ):
        registry.publish()
    assert owners() == {"shop_hello": "app"}


def test_a_function_is_rewritten_in_the_code_when_the_application_has_it_no_longer() -> None:
    write(hello())
    write()
    with registry.use(*code("shop_hello")):
        registry.publish()
    assert owners()["shop_hello"] != "app"
    assert catalog.remote_function("shop_hello") is None
    assert (catalog.remote_functions(), catalog.has_functions()) == ([], False)


def test_a_name_that_the_code_once_had_gets_four_digits_more() -> None:
    with registry.use(*code("shop_hello")):
        registry.publish()
    with registry.use():
        registry.publish()
    write(hello())
    write(hello(concurrency=2))
    [name] = owners()
    assert name.startswith("shop_hello_")


def test_the_doctor_names_a_function_of_the_code_and_an_application() -> None:
    write({"id": "send-email", "triggers": [{"event": "a/b"}]}, app="send")
    [check] = [check for check in all_checks(load_code=True) if check.name == "code"]
    assert not check.ok
    assert "two functions are called send_email: this one, and send-email of the" in check.says


def test_an_error_is_noted_until_the_next_registration() -> None:
    catalog.note_error("shop", URL, "no good")
    assert catalog.apps()[0]["error"] == "no good"
    write(hello())
    assert catalog.apps()[0]["error"] is None


def test_run_ids_are_the_same_in_sql_and_reversible() -> None:
    [row] = rows(
        "SELECT id, at, runyard.run_id_v1(id, at) AS made FROM (VALUES"
        " (1::bigint, now()), (9223372036854775807, '2030-01-01 00:00:00.999999+00'))"
        " AS invocations (id, at) ORDER BY id LIMIT 1"
    )
    assert row["made"] == run_id(row["id"], row["at"])
    assert invocation_of(row["made"]) == row["id"]


def test_the_largest_number_has_a_run_id() -> None:
    [row] = rows(
        "SELECT at, runyard.run_id_v1(9223372036854775807, at) AS made"
        " FROM (SELECT '2030-01-01 00:00:00.999999+00'::timestamptz AS at) AS times"
    )
    assert row["made"] == run_id(2**63 - 1, row["at"])
    assert invocation_of(row["made"]) == 2**63 - 1


def test_what_is_no_run_id_means_no_invocation() -> None:
    assert [invocation_of(text) for text in ("", "7", "Z" * 26, "u" * 26)] == [None] * 4


def test_a_failure_starts_the_failure_handler_of_its_function_alone() -> None:
    other = {"id": "shop-other", "triggers": [{"event": "shop/other"}]}
    write(hello(), FAILURE, other)
    send([Event("shop/sold", {"n": 1}), Event("shop/other")])
    end("failed", type="TypeError", message="x is undefined", traceback="at line 1")
    end("failed", "shop_other")
    assert rows("SELECT function FROM runyard.invocations WHERE finished_at IS NULL") == [
        {"function": "shop_hello_failure"}
    ]


def test_a_failure_is_told_as_inngest_does() -> None:
    write(hello(), FAILURE)
    send(Event("shop/sold", {"n": 1}))
    run = end("failed", type="TypeError", message="x is undefined", traceback="at line 1")
    [told] = events("inngest/function.failed")
    data = told["data"]
    assert told["id"] == data["run_id"] == run_id(run["id"], run["created_at"])
    assert data["function_id"] == "shop-hello"
    assert (data["event"]["name"], data["event"]["data"]) == ("shop/sold", {"n": 1})
    assert data["events"] == [data["event"]]
    assert data["error"] == {
        "__serialized": True,
        "name": "TypeError",
        "message": "x is undefined",
        "stack": "at line 1",
    }
    assert data["_inngest"] == {"status": "Failed"}


def test_only_what_somebody_waits_for_is_told() -> None:
    write(hello(), FAILURE)
    send(Event("shop/sold"))
    end("failed")
    assert events("inngest/function.finished") == []


def test_without_anybody_who_waits_nothing_is_told() -> None:
    write(hello())
    send(Event("shop/sold"))
    end("failed")
    assert events("inngest/function.failed") == []


@pytest.mark.parametrize(
    ("status", "name", "told"),
    [
        ("succeeded", "inngest/function.finished", "Completed"),
        ("failed", "inngest/function.finished", "Failed"),
        ("cancelled", "inngest/function.cancelled", "Cancelled"),
    ],
)
def test_other_ends_are_told_too(status: str, name: str, told: str) -> None:
    write(hello(), {"id": "shop-audit", "triggers": [{"event": name}]})
    send(Event("shop/sold"))
    end(status)
    [event] = events(name)
    assert event["data"]["_inngest"] == {"status": told}
    assert event["data"].get("result") == ({"sum": 3} if status == "succeeded" else None)


def test_the_end_of_a_failure_handler_is_not_told() -> None:
    write(
        hello(), FAILURE, {"id": "shop-audit", "triggers": [{"event": "inngest/function.failed"}]}
    )
    send(Event("shop/sold"))
    end("failed")
    end("failed", "shop_hello_failure")
    end("failed", "shop_audit")
    assert len(events("inngest/function.failed")) == 1


def test_the_end_of_a_function_of_the_code_is_told_by_its_name() -> None:
    rows(
        "INSERT INTO runyard.functions (name, job, triggers, exact, max_batch, attempts)"
        " VALUES ('local', 'local', '{a/b}', '{a/b}', 1, 1) RETURNING name"
    )
    write({"id": "shop-audit", "triggers": [{"event": "inngest/function.finished"}]})
    send(Event("a/b"))
    end("succeeded", "local")
    [event] = events("inngest/function.finished")
    assert event["data"]["function_id"] == "local"


def test_a_star_alone_meets_no_internal_event() -> None:
    write(hello(), FAILURE, {"id": "shop-all", "triggers": [{"event": "*"}]})
    send(Event("shop/sold"))
    end("failed")
    assert rows("SELECT count(*) AS n FROM runyard.invocations WHERE function = 'shop_all'") == [
        {"n": 1}
    ]


def test_a_function_that_is_looked_up_again_at_once_is_not_read_again() -> None:
    write(hello())
    first = registry.find("shop_hello")
    rows("DELETE FROM runyard.app_functions RETURNING function")
    assert registry.find("shop_hello") is first


def test_a_function_is_looked_up_as_it_was_registered_last() -> None:
    write(hello())
    registry.find("shop_hello")
    write(hello(steps={"step": {"retries": {"attempts": 7}}}))
    found = registry.find("shop_hello")
    assert found is not None
    assert found.retry.attempts == 8
