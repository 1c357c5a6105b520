"""Applications with Inngest's SDKs register: from npm and PyPI, as they are installed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runyard.apps.answers import step_id
from runyard.apps.run_ids import run_id
from tests.conftest import ROOT, wait_until
from tests.ports import free_port
from tests.sdk_apps import PYTHON, SDK_VERSIONS, SdkApp
from tests.tables import rows
from tests.web_process import web_in_development

pytestmark = pytest.mark.usefixtures("no_apps")


@pytest.fixture(params=SDK_VERSIONS)
def app(
    request: pytest.FixtureRequest,
    developing: str,
    javascript: Callable[[str], Path],
    tmp_path: Path,
) -> Iterator[SdkApp]:
    """An application `shop` that has this server as its development server."""
    folder = None if request.param == PYTHON else javascript(request.param)
    made = SdkApp("shop", folder, tmp_path / "log", INNGEST_DEV=developing)
    yield made
    made.stop()


def sync(url: str) -> "subprocess.CompletedProcess[str]":
    """`runyard apps sync`, as a process."""
    return command("sync", url)


def put(app: SdkApp) -> None:
    """Ask an application to register, as anybody may."""
    httpx.put(app.url, json={"url": app.url}, timeout=30)


def active() -> list[str]:
    return [
        row["name"]
        for row in rows(
            "SELECT name FROM runyard.functions WHERE active AND location = 'app shop' ORDER BY 1"
        )
    ]


def details() -> dict[str, Any]:
    [row] = rows("SELECT * FROM runyard.apps")
    return row


def test_an_application_appears_with_its_functions(app: SdkApp) -> None:
    app.serve("hello:shop/sold", "receipt:shop/paid", "odd one:shop/*")
    put(app)
    assert [name for name in active() if not name.endswith("_failure")] == [
        "shop_hello",
        "shop_odd_one",
        "shop_receipt",
    ]
    assert (details()["name"], details()["error"]) == ("shop", None)


def test_what_it_registers_is_started_by_its_events(app: SdkApp, developing: str) -> None:
    app.serve("hello:shop/sold:event.data.kind == 'book'", "other:shop/other")
    put(app)
    for kind in ("book", "pen"):
        httpx.post(f"{developing}/e/x", json={"name": "shop/sold", "data": {"kind": kind}})
    assert rows(
        "SELECT function, data->>'kind' AS kind FROM runyard.invocations JOIN runyard.events"
        " ON events.id = event_id"
    ) == [{"function": "shop_hello", "kind": "book"}]


def test_the_same_registration_again_changes_nothing(app: SdkApp) -> None:
    app.serve("hello:shop/sold")
    put(app)
    first = rows("SELECT xmin::text FROM runyard.functions WHERE name = 'shop_hello'")
    put(app)
    assert rows("SELECT xmin::text FROM runyard.functions WHERE name = 'shop_hello'") == first


def test_what_an_application_was_asked_with_is_no_part_of_its_registration(app: SdkApp) -> None:
    app.serve("hello:shop/sold")
    put(app)
    first = details()
    httpx.put(f"{app.url}?deployId=another", json={"url": app.url}, timeout=30)
    again = details()
    assert again["asked"] == "another"
    assert (again["url"], again["digest"]) == (first["url"], first["digest"])


def test_a_function_that_is_gone_gets_no_new_runs(app: SdkApp) -> None:
    app.serve("hello:shop/sold", "receipt:shop/paid")
    put(app)
    app.serve("hello:shop/sold")
    put(app)
    assert [name for name in active() if "failure" not in name] == ["shop_hello"]


def test_one_bad_expression_refuses_all_and_the_old_list_stays(app: SdkApp) -> None:
    app.serve("hello:shop/sold")
    put(app)
    before = active()
    app.serve("hello:shop/sold", "bad:shop/sold:event.data.total >")
    put(app)
    assert active() == before
    assert "function shop-bad, triggers[0].expression: not an expression" in details()["error"]


def test_the_command_asks_an_application_to_register(app: SdkApp) -> None:
    app.serve("hello:shop/sold")
    done = sync(app.url)
    assert (done.stdout, done.stderr) == ("shop has registered.\n", "")
    assert "shop_hello" in active()


def test_the_command_says_why_an_application_is_refused(app: SdkApp) -> None:
    app.serve("bad:shop/sold:event.data.total >")
    done = sync(app.url)
    assert done.returncode == 1
    assert "function shop-bad, triggers[0].expression: not an expression" in done.stderr


def test_an_application_that_does_not_answer_is_noted(app: SdkApp) -> None:
    app.serve("hello:shop/sold")
    sync(app.url)
    app.stop()
    done = sync(app.url)
    assert "nothing answers at" in done.stderr
    assert details()["error"] is not None
    assert "shop_hello" in active()


def test_what_is_no_sdk_is_said(developing: str) -> None:
    done = sync(f"{developing}/healthz")
    assert "no Inngest SDK answers at" in done.stderr


def test_an_application_with_another_server_is_told_what_to_set(
    developing: str, tmp_path: Path
) -> None:
    other = SdkApp("shop", None, tmp_path / "log", INNGEST_DEV="http://127.0.0.1:1")
    other.serve("hello:shop/sold")
    done = sync(other.url)
    other.stop()
    assert "has not registered here: start it with INNGEST_DEV=" in done.stderr


def test_a_removed_application_has_no_functions(app: SdkApp, developing: str) -> None:
    app.serve("hello:shop/sold")
    put(app)
    answer = httpx.delete(f"{developing}/fn/remove", params={"url": details()["url"]})
    assert answer.json() == {"ok": True, "removed": ["shop"]}
    assert active() == []


def register(url: str, body: Any = None, **more: Any) -> httpx.Response:
    given = {"appName": "shop", "url": "http://localhost:3000/api/inngest", "functions": []}
    return httpx.post(f"{url}/fn/register", json=given if body is None else body, **more)


def test_field_names_are_read_without_regard_to_case(developing: str) -> None:
    function = {"ID": "shop-a", "Triggers": [{"Event": "a/b"}], "Throttle": None}
    answer = register(
        developing,
        {"appname": "shop", "URL": "http://localhost:3000/x", "Functions": [function]},
    )
    assert answer.json() == {"ok": True, "modified": True, "status": 200}
    assert active() == ["shop_a"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "the registration: give an object, not a list"),
        ({"url": "http://localhost/x"}, "the registration, app_id: it is missing"),
        ({"appName": "a", "url": "ftp://x"}, "'ftp://x' is not an http or https URL"),
        (
            {"appName": "a", "url": "http://h/x", "functions": [{"id": "a-b"}] * 1001},
            "there are 1,001, and the limit is 1,000",
        ),
        (
            {"appName": "a", "url": "http://h/x", "functions": [{"id": "a-b"}, {"id": "a-b"}]},
            "function a-b: there are two of this id",
        ),
        (
            {
                "appName": "a",
                "url": "http://h/x",
                "functions": [{"id": "a-b", "steps": {"step": {"runtime": {"type": "ws"}}}}],
            },
            "connections over a WebSocket (connect) are not supported",
        ),
    ],
)
def test_what_is_wrong_with_a_registration_is_said(developing: str, body: Any, words: str) -> None:
    answer = register(developing, body)
    assert answer.status_code == answer.json()["status"] == 400
    assert words in answer.json()["error"]


def test_deep_json_is_refused(developing: str) -> None:
    answer = httpx.post(
        f"{developing}/fn/register",
        content=b'{"appName":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400


def test_a_large_registration_is_refused(developing: str) -> None:
    assert register(developing, {"x": "y" * 5_000_000}).status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Content-Type": "text/plain"}, 415)],
)
def test_no_page_of_another_site_can_register(
    developing: str, headers: dict[str, str], status: int
) -> None:
    assert register(developing, headers=headers).status_code == status
    assert rows("SELECT FROM runyard.apps") == []


def test_an_application_for_another_kind_of_server_is_refused(developing: str) -> None:
    answer = register(developing, headers={"x-inngest-expected-server-kind": "cloud"})
    assert answer.status_code == 400
    assert "start it with INNGEST_DEV" in answer.json()["error"]


def test_another_host_with_the_same_id_is_pointed_out(developing: str) -> None:
    register(developing)
    register(developing, {"appName": "shop", "url": "http://10.0.0.9/x", "functions": []})
    assert "it was at localhost before and has registered from 10.0.0.9" in details()["warnings"][0]


def test_two_applications_cannot_have_functions_of_one_id(developing: str) -> None:
    base = {"url": "http://localhost:3000/x", "functions": [{"id": "shop-a-b"}]}
    assert register(developing, {"appName": "shop", **base}).status_code == 200
    answer = register(developing, {"appName": "shop-a", **base})
    assert "the application shop has a function shop-a-b already" in answer.json()["error"]


def test_a_name_that_is_taken_gets_four_digits_more(developing: str) -> None:
    functions = [{"id": "shop-a b"}, {"id": "shop-a-b"}]
    register(developing, {"appName": "shop", "url": "http://h/x", "functions": functions})
    register(developing, {"appName": "shop", "url": "http://h/y", "functions": functions[::-1]})
    assert [name[:9] for name in active()] == ["shop_a_b", "shop_a_b_"]


def test_in_production_nobody_registers_without_a_signing_key(web: Any) -> None:
    assert register(web.url).status_code == 401
    assert register(web.url, headers={"Authorization": "Bearer undefined"}).status_code == 401
    assert rows("SELECT FROM runyard.apps") == []


@pytest.mark.parametrize("path", ["/v0/connect/start", "/v1/checkpoint"])
def test_what_is_not_supported_says_so(developing: str, path: str) -> None:
    answer = httpx.post(f"{developing}{path}", json={})
    assert answer.status_code == 501
    assert "not supported" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/traces/userland", "/dev/traces"])
def test_traces_of_an_sdk_are_taken(developing: str, path: str) -> None:
    assert httpx.post(f"{developing}{path}", json={}).status_code == 200


def test_programs_get_json_from_the_dev_page(developing: str) -> None:
    assert isinstance(httpx.get(f"{developing}/dev").json(), dict)


def test_browsers_get_the_dev_page(developing: str) -> None:
    page = httpx.get(f"{developing}/dev", headers={"Accept": "text/html,*/*"})
    assert page.text.startswith("<!doctype html>")


def test_the_page_of_applications_shows_functions_errors_and_warnings(developing: str) -> None:
    body = {
        "appName": "<b>shop",
        "url": "http://localhost:3000/x",
        "sdk": "js:v3.30.0",
        "functions": [{"id": "shop-a", "name": "Say hello", "triggers": [{"cron": "0 5 * * *"}]}],
    }
    register(developing, body)
    register(developing, {**body, "functions": [{"id": "shop-a", "throttle": {"limit": 0}}]})
    page = httpx.get(f"{developing}/dev/apps", headers={"Accept": "text/html"}).text
    for words in (
        "&lt;b&gt;shop",
        'href="/dev/functions/shop_a">Say hello',
        "the schedule 0 5 * * *",
        "CVE-2026-42047",
        "throttle.period: it is missing",
    ):
        assert words in page


def test_forms_of_the_page_sync_and_remove_an_application(app: SdkApp, developing: str) -> None:
    app.serve("hello:shop/sold")
    with httpx.Client(base_url=developing, headers={"Accept": "text/html"}) as browser:

        def submit(action: str, **fields: str) -> httpx.Response:
            page = browser.get("/dev/apps").text
            token = page.split('name="token" value="')[1].split('"')[0]
            return browser.post(f"/dev/apps/{action}", data={"token": token, **fields})

        assert submit("sync", url=app.url).headers["location"] == "/dev/apps"
        assert "shop_hello" in active()
        assert submit("remove", name="shop").headers["location"] == "/dev/apps"
        assert active() == []
        assert "no Inngest SDK answers at" in submit("sync", url=f"{developing}/healthz").text


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of `runyard apps`."""
    return subprocess.run(
        [sys.executable, "-m", "runyard", "apps", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_commands_list_and_remove_applications(developing: str) -> None:
    assert "No applications yet" in command("list").stdout
    functions = [{"id": "shop-a", "triggers": [{"event": "shop/sold"}]}]
    register(developing, {"appName": "shop", "url": "http://h/x", "functions": functions})
    assert command("list").stdout == "shop  at http://h/x  \n    shop-a  as shop_a\n"
    assert "shop is removed" in command("remove", "shop").stdout
    again = command("remove", "shop")
    assert (again.returncode, again.stderr[:33]) == (1, "runyard: there is no application ")


def test_a_run_that_is_too_large_for_a_call_is_read_here(developing: str) -> None:
    functions = [{"id": "shop-a", "triggers": [{"event": "shop/sold"}]}]
    register(developing, {"appName": "shop", "url": "http://h/x", "functions": functions})
    httpx.post(f"{developing}/e/x", json={"name": "shop/sold", "data": {"n": 1}})
    [run] = rows("SELECT id, created_at FROM runyard.invocations")
    rows(
        "INSERT INTO runyard.steps (invocation_id, step, attempt, output, started_at, finished_at)"
        " VALUES (%s, 'first', 1, '{\"data\": 5}', now(), now()) RETURNING step",
        run["id"],
    )
    at = f"{developing}/v0/runs/{run_id(run['id'], run['created_at'])}"
    [event] = httpx.get(f"{at}/batch").json()
    assert (event["name"], event["data"]) == ("shop/sold", {"n": 1})
    assert httpx.get(f"{at}/actions").json() == {step_id("first"): {"data": 5}}
    assert httpx.get(f"{developing}/v0/runs/{'0' * 26}/actions").status_code == 404


def test_a_run_is_found_by_the_id_that_functions_see(developing: str) -> None:
    httpx.post(f"{developing}/e/x", json={"name": "greet/requested"})
    [run, *_] = rows("SELECT id, created_at FROM runyard.invocations ORDER BY id")
    answer = httpx.get(f"{developing}/v1/runs/{run_id(run['id'], run['created_at'])}")
    assert answer.json()["data"]["run_id"] == str(run["id"])


def test_the_state_of_a_run_that_has_ended_is_gone(developing: str) -> None:
    functions = [{"id": "shop-a", "triggers": [{"event": "shop/sold"}]}]
    register(developing, {"appName": "shop", "url": "http://h/x", "functions": functions})
    httpx.post(f"{developing}/e/x", json={"name": "shop/sold"})
    [run] = rows(
        "UPDATE runyard.invocations SET status = 'succeeded', finished_at = now()"
        " RETURNING id, created_at"
    )
    at = f"{developing}/v0/runs/{run_id(run['id'], run['created_at'])}/actions"
    assert httpx.get(at).status_code == 410


def test_an_application_is_found_on_a_port_and_its_changes_too(
    web_database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    app = SdkApp("shop", None, tmp_path / "log", INNGEST_DEV=f"http://127.0.0.1:{port}")
    app.serve("hello:shop/sold")
    looking = web_in_development(
        web_database_url, port, RUNYARD_DISCOVER_APPS="1", PORT=str(app.port)
    )
    try:
        wait_until(lambda: "shop_hello" in active())
        app.serve("hello:shop/sold", "other:shop/sold")
        wait_until(lambda: "shop_other" in active())
    finally:
        app.stop()
        looking.terminate()
        looking.wait(15)


def test_an_application_that_the_stack_is_told_of_registers(
    web_database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    app = SdkApp("shop", None, tmp_path / "log", INNGEST_DEV=f"http://127.0.0.1:{port}")
    told = web_in_development(web_database_url, port, RUNYARD_APPS=app.url)
    try:
        app.serve("hello:shop/sold")
        wait_until(lambda: "shop_hello" in active())
    finally:
        app.stop()
        told.terminate()
        told.wait(15)


def test_the_page_says_why_an_application_has_not_registered_that_the_stack_is_told_of(
    web_database_url: str,
) -> None:
    port = free_port()
    told = web_in_development(
        web_database_url, port, RUNYARD_APPS="http://127.0.0.1:1/api/inngest?token=geheim"
    )

    def page() -> str:
        url = f"http://127.0.0.1:{port}/dev/apps"
        return httpx.get(url, headers={"Accept": "text/html"}).text

    try:
        wait_until(lambda: "has not registered: nothing answers at http://127.0.0.1:1" in page())
        assert "<code>http://127.0.0.1:1/api/inngest</code>" in page()
        assert "geheim" not in page()
    finally:
        told.terminate()
        told.wait(15)


def test_an_application_that_knows_another_server_answers_with_its_registration(
    developing: str, javascript: Callable[[str], Path], tmp_path: Path
) -> None:
    app = SdkApp("shop", javascript("4.24.0"), tmp_path / "log", INNGEST_DEV="http://127.0.0.1:1")
    app.serve("hello:shop/sold")
    done = sync(app.url)
    app.stop()
    assert (done.stdout, done.stderr) == ("shop has registered.\n", "")
    assert "shop_hello" in active()


def test_an_application_that_knows_another_server_is_asked_for_its_changes(
    web_database_url: str, javascript: Callable[[str], Path], tmp_path: Path
) -> None:
    port = free_port()
    app = SdkApp("shop", javascript("4.24.0"), tmp_path / "log", INNGEST_DEV="http://127.0.0.1:1")
    app.serve("hello:shop/sold")
    looking = web_in_development(
        web_database_url, port, RUNYARD_DISCOVER_APPS="1", RUNYARD_APPS=app.url
    )
    try:
        wait_until(lambda: "shop_hello" in active())
        app.serve("hello:shop/sold", "other:shop/sold")
        wait_until(lambda: "shop_other" in active())
        assert details()["error"] is None
    finally:
        app.stop()
        looking.terminate()
        looking.wait(15)


def test_an_application_that_wants_signatures_is_told_of_both_ways(
    developing: str, tmp_path: Path
) -> None:
    app = SdkApp(
        "shop",
        None,
        tmp_path / "log",
        NODE_ENV="production",
        INNGEST_BASE_URL=developing,
        INNGEST_SIGNING_KEY="signkey-test-" + "ab12" * 16,
    )
    app.serve("hello:shop/sold")
    done = sync(app.url)
    app.stop()
    assert "and this server has no key: start it with INNGEST_DEV=" in done.stderr
    assert "or set RUNYARD_SIGNING_KEY to its INNGEST_SIGNING_KEY" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0"])
def test_this_machine_has_several_names(developing: str, host: str) -> None:
    register(developing)
    url = f"http://{host}:3000/api/inngest"
    answer = httpx.delete(f"{developing}/fn/remove", params={"url": url})
    assert answer.json()["removed"] == ["shop"]


@pytest.mark.parametrize("sdk", SDK_VERSIONS)
def test_with_a_signing_key_both_sides_sign(
    sdk: str, web_database_url: str, javascript: Callable[[str], Path], tmp_path: Path
) -> None:
    port, key = free_port(), "signkey-test-" + "ab12" * 16
    key_of_server = {"RUNYARD_SIGNING_KEY": key, "RUNYARD_ALLOWED_HOSTS": "localhost"}
    server = web_in_development(web_database_url, port, **key_of_server)
    url = f"http://127.0.0.1:{port}"
    app = SdkApp(
        "shop",
        None if sdk == "python" else javascript(sdk),
        tmp_path / "log",
        NODE_ENV="production",
        INNGEST_BASE_URL=url,
        INNGEST_SIGNING_KEY=key,
        INNGEST_EVENT_KEY="x",
    )
    app.serve("hello:shop/sold")
    try:
        refused = register(url)
        done = subprocess.run(
            [sys.executable, "-m", "runyard", "apps", "sync", app.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **key_of_server},
        )
        put(app)
        error = details()["error"]
    finally:
        app.stop()
        server.terminate()
        server.wait(15)
    assert (refused.status_code, error) == (401, None)
    assert (done.stdout, done.stderr) == ("shop has registered.\n", "")
    assert "shop_hello" in active()
