"""The dev page without a browser: keys, CSRF tokens, searches, actions, security headers."""

import re
from collections.abc import Iterator

import pytest

from runyard import Event, send
from runyard.engine import api_keys, batch_claims, batch_leases, settlement
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from runyard.gateway.dev import search
from runyard.processes.code_check import remember_problem
from runyard.processes.code_location import CodeProblem
from runyard.store import database
from tests.conftest import wait_until
from tests.http.history import run_through
from tests.http.visitor import Visitor
from tests.web_process import WebProcess, count

PAGES = [
    "/dev",
    "/dev/functions",
    "/dev/functions/greet",
    "/dev/send",
    "/dev/send?name=email/send.requested",
    "/dev/send/several",
    "/dev/outbox",
    "/dev/content",
    "/dev/media",
    "/dev/catalog",
    "/dev/health",
]


@pytest.fixture
def visitor(web: WebProcess) -> Visitor:
    return Visitor(web, "all")


@pytest.mark.parametrize("path", PAGES)
def test_without_a_key_there_is_a_form_for_one_and_nothing_else(web: WebProcess, path: str) -> None:
    send("secret/event")
    answer = Visitor(web).get(path)
    assert answer.status_code == 401
    assert 'name="key"' in answer.text
    assert "secret/event" not in answer.text
    assert "also" not in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_with_a_key_every_page_is_there_and_says_what_a_browser_may_do_with_it(
    visitor: Visitor, path: str
) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == (
        "nosniff",
        "no-store",
    )
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=|javascript:", answer.text)
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)


def test_the_key_is_kept_where_no_script_reads_it_and_given_back(web: WebProcess) -> None:
    visitor = Visitor(web)
    answer = visitor.log_in(web.keys["read"], to="/dev/functions")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dev/functions")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/dev" in cookie
    assert "Secure" not in cookie
    assert (
        "Secure"
        in Visitor(web)
        .log_in(web.keys["read"], headers={"X-Forwarded-Proto": "https"})
        .headers["set-cookie"]
    )
    assert "Key: read" in visitor.get("/dev").text
    assert (
        visitor.log_in(web.keys["read"], to="/dev?status=failed").headers["location"]
        == "/dev?status=failed"
    )
    assert (
        'name="to" value="/dev?status=failed&amp;name=a"'
        in Visitor(web).get("/dev?status=failed&name=a").text
    )
    assert (
        visitor.log_in(web.keys["read"], to="https://evil.example/").headers["location"] == "/dev"
    )
    assert visitor.log_in(web.keys["read"], to="/developers-beware").headers["location"] == "/dev"
    assert web.keys["read"] not in visitor.get("/dev").text
    assert web.keys["read"] not in web.log()
    visitor.post("/dev/logout")
    assert visitor.get("/dev").status_code == 401


def test_a_wrong_key_and_one_that_may_not_read_are_refused_in_words(web: WebProcess) -> None:
    wrong = Visitor(web).log_in("not-a-valid-key")
    assert wrong.status_code == 401
    assert "send a key that is valid here" in wrong.text
    assert "this key lacks the scope read" in Visitor(web).log_in(web.keys["send"]).text


def test_a_revoked_key_is_out(web: WebProcess) -> None:
    _, key = api_keys.create("short-lived", ["read"])
    visitor = Visitor(web)
    assert visitor.log_in(key).status_code == 303
    api_keys.revoke("short-lived")
    assert wait_until(lambda: visitor.get("/dev").status_code == 401, 15)


def test_a_key_that_only_reads_has_no_buttons_and_can_do_nothing(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send("also/one")
    [invocation] = run_through(functions["also"], error="x")
    reader = Visitor(web, "read")
    page = reader.get(f"/dev/invocations/{invocation}").text
    assert "Replay" not in page
    assert "Replay" in Visitor(web, "all").get(f"/dev/invocations/{invocation}").text
    answer = reader.post(f"/dev/invocations/{invocation}/replay", page="/dev")
    assert answer.status_code == 403
    assert "this key lacks the scope manage" in answer.text
    assert (
        reader.post("/dev/send", page="/dev", name="a/b", json="{}", do="send").status_code == 403
    )
    assert count("runyard.invocations") == 1
    assert count() == 1


ACTIONS = [
    "/dev/events/{event}/replay",
    "/dev/invocations/1/replay",
    "/dev/invocations/1/cancel",
    "/dev/invocations/1/run-now",
    "/dev/functions/also/pause",
    "/dev/functions/also/resume",
    "/dev/functions/also/replay-failures",
    "/dev/send",
    "/dev/send/several",
    "/dev/logout",
]


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "attack",
    [
        "no token",
        "a wrong one",
        "one of other letters",
        "another visitor's",
        "another origin",
        "no origin that can be told",
    ],
)
def test_no_form_of_others_does_anything(
    visitor: Visitor, web: WebProcess, functions: dict[str, Function], path: str, attack: str
) -> None:
    [event_id] = send("also/one")
    run_through(functions["also"], error="x")
    before = count("runyard.invocations"), count()
    token = {
        "no token": "",
        "a wrong one": "0" * 64,
        "one of other letters": "é",
        "another visitor's": Visitor(web, "manage").token("/dev/functions"),
    }.get(attack, visitor.token("/dev"))
    origin = {"another origin": "https://evil.example", "no origin that can be told": "null"}.get(
        attack, web.url
    )
    answer = visitor.http.post(
        path.format(event=event_id),
        data={"token": token, "name": "a/b", "do": "send"},
        headers={"Origin": origin},
    )
    assert answer.status_code == 403
    assert (count("runyard.invocations"), count()) == before
    assert visitor.get("/dev").status_code == 200


def test_a_form_that_is_none_is_refused_in_words(visitor: Visitor) -> None:
    answer = visitor.http.post(
        "/dev/send",
        content=b"\xff\xfe",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 400
    assert "open the page again" in answer.text
    assert visitor.http.post("/dev/send", content=b"a=" + b"x" * 11_000_000).status_code == 413


def test_the_catalog_links_an_event_type_with_the_functions_that_it_starts(
    visitor: Visitor,
) -> None:
    page = visitor.get("/dev/catalog").text
    section = page.split('id="email/send.requested"')[1].split("<h2")[0]
    assert 'href="/dev/functions/send_email"' in section


@pytest.mark.parametrize(
    "path",
    [
        "/dev/nothing",
        "/dev/events/none",
        "/dev/invocations/9",
        "/dev/invocations/x",
        "/dev/invocations/99999999999999999999",
        "/dev/functions/none",
        "/dev/outbox/none",
        "/dev/outbox/none/html",
        "/dev/outbox/none/attachments/0",
        "/dev/content/none",
        "/dev/media/none",
        "/dev/media/files/ab/none.webp",
        "/dev/media/files/ab/x.html",
        "/dev/media/files/%2e%2e/secret.png",
    ],
)
def test_a_missing_object_has_a_page_that_says_so(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1>Not found</h1>" in answer.text


def shown(visitor: Visitor, **search: str) -> list[str]:
    """The ids of the events that a search finds."""
    return re.findall(r'<li id="event-(\w+)"', visitor.get("/dev", params=search).text)


def test_a_search_finds_by_name_id_status_time_and_data(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    [first] = send(
        "also/one", {"to": ["ada@example.com"], "n": 7, "deep": {"er": True}}, id="order-1"
    )
    [second] = send("also/two", {"n": 8})
    [third] = send("nobody/waits", {"n": "7"})
    done = run_through(functions["also"])
    [fourth] = send("also/one")
    with database.connection() as connection:
        connection.execute(
            b"UPDATE runyard.events SET received_at = now() - interval '3 hours' WHERE id = %s",
            (first,),
        )
    assert shown(visitor) == [fourth, third, second, first]
    assert shown(visitor, name="also/one") == [fourth, first]
    assert (
        shown(visitor, id=first)
        == shown(visitor, id="order-1")
        == shown(visitor, id=str(done[0]))
        == [first]
    )
    assert shown(visitor, id="run-1") == [second, first]
    assert shown(visitor, id="no-such-id") == []
    assert shown(visitor, status="succeeded") == [second, first]
    assert shown(visitor, status="queued") == [fourth]
    assert shown(visitor, status="unmatched") == [third]
    assert shown(visitor, status="failed") == []
    assert shown(visitor, since="1h") == [fourth, third, second]
    assert shown(visitor, until="1h") == [first]
    assert shown(visitor, path="data.to = ada@example.com") == [first]
    assert shown(visitor, path="data.n = 7") == [third, first]
    assert shown(visitor, path='data.n = "7"') == [third]
    assert shown(visitor, path="data.deep.er") == [first]
    assert shown(visitor, path="$.data.n > 7") == [second]
    assert shown(visitor, name="also/one", status="succeeded", path="data.n = 7") == [first]


def test_the_engines_own_events_are_shown_where_they_are_asked_for(visitor: Visitor) -> None:
    with database.connection() as connection:
        connection.execute(
            b"INSERT INTO runyard.events (id, name, source)"
            b" VALUES ('own', 'runyard/function.finished', 'engine')"
        )
    assert shown(visitor) == []
    assert (
        shown(visitor, internal="yes")
        == shown(visitor, name="runyard/function.finished")
        == shown(visitor, id="own")
        == ["own"]
    )


@pytest.mark.parametrize(
    "search",
    [
        {"status": "maybe"},
        {"since": "soonish"},
        {"path": "$.data."},
        {"path": "what?"},
        {"before": "yesterday"},
    ],
)
def test_a_search_that_cannot_be_read_says_so_beside_the_form(
    visitor: Visitor, search: dict[str, str]
) -> None:
    send("also/one")
    answer = visitor.get("/dev", params=search)
    assert answer.status_code == 200
    assert 'role="alert"' in answer.text
    assert next(iter(search)) in answer.text


def test_pages_show_every_event_once(visitor: Visitor) -> None:
    ids = [one for _ in range(4) for one in send([Event("nobody/waits") for _ in range(31)])]
    found: list[str] = []
    path: str | None = "/dev?name=nobody%2Fwaits"
    while path is not None:
        page = visitor.get(path).text
        found += re.findall(r'<li id="event-(\w+)"', page)
        older = re.search(r'<a href="([^"]+)">Older</a>', page)
        path = older[1].replace("&amp;", "&") if older else None
    assert sorted(found) == sorted(ids)
    assert len(found) == len(set(found)) == 124


def test_a_search_for_what_is_rare_ends_in_time_and_can_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The needle is the oldest event; a search without time gets one chunk far, and says so."""
    [needle] = send("also/one", {"needle": True})
    send([Event("nobody/waits") for _ in range(250)])
    monkeypatch.setattr(search, "_CHUNK", 100)
    monkeypatch.setattr(search, "_LARGEST_CHUNK", 100)
    monkeypatch.setattr(search, "_SECONDS", -1.0)
    fields = dict.fromkeys(search.FIELDS, "") | {"path": "data.needle = true"}
    found = search.find(search.Search(fields))
    assert found.events == []
    assert found.looked_until is not None
    assert found.further is not None
    looks = 1
    while not found.events:
        assert found.further is not None
        found = search.find(search.Search(fields, found.further))
        looks += 1
    assert [event["id"] for event in found.events] == [needle]
    assert looks == 3
    monkeypatch.setattr(search, "_SECONDS", 5.0)
    assert [event["id"] for event in search.find(search.Search(fields)).events] == [needle]


def test_what_an_event_caused_is_a_tree(visitor: Visitor, functions: dict[str, Function]) -> None:
    [root] = send("also/root")
    [top] = run_through(functions["also"])
    with database.connection() as connection:
        connection.execute(
            b"INSERT INTO runyard.events (id, name, source, caused_by)"
            b" VALUES ('child', 'also/child', 'step', %s)",
            (top,),
        )
    [middle] = run_through(functions["also"])
    with database.connection() as connection:
        connection.execute(
            b"INSERT INTO runyard.events (id, name, source, caused_by)"
            b" VALUES ('grandchild', 'nobody/waits', 'step', %s)",
            (middle,),
        )
    page = visitor.get(f"/dev/events/{root}").text
    tree = page[page.index("What it caused") :]
    assert (
        tree.index(f"/dev/invocations/{top}")
        < tree.index("/dev/events/child")
        < tree.index(f"/dev/invocations/{middle}")
        < tree.index("/dev/events/grandchild")
    )
    assert f"/dev/events/{root}" in visitor.get("/dev/events/child").text


def test_an_event_that_causes_itself_again_and_again_does_not_hang_the_page(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    [event_id] = send("also/loop")
    [invocation] = run_through(functions["also"])
    with database.connection() as connection:
        connection.execute(
            b"UPDATE runyard.events SET caused_by = %s WHERE id = %s", (invocation, event_id)
        )
    assert visitor.get(f"/dev/events/{event_id}").status_code == 200


def test_an_event_is_replayed_and_an_invocation_cancelled_and_run_now(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    [event_id] = send("also/one")
    run_through(functions["also"])
    answer = visitor.post(f"/dev/events/{event_id}/replay")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dev/invocations/2")
    assert visitor.post("/dev/invocations/2/cancel").headers["location"] == "/dev/invocations/2"
    again = visitor.post("/dev/invocations/2/cancel")
    assert again.status_code == 409
    assert "already cancelled" in again.text
    assert '<a href="/dev/invocations/2">Go back</a>' in again.text
    kept = visitor.post("/dev/invocations/1/replay", keep="yes").headers["location"]
    assert "Reused from the invocation that it replays" in visitor.get(kept).text
    [claim] = batch_claims.claim(functions["also"]) or []
    batch_leases.begin(claim.batch_id, "run-2")
    settlement.settle(
        claim.batch_id,
        "run-2",
        [
            Outcome(
                3,
                "queued",
                delay=60,
                attempt=1,
                error='{"step": "say-hello", "type": "OSError", "message": "away"}',
            )
        ],
    )
    page = visitor.get(kept).text
    assert "Retry now" in page
    assert "waiting: attempt 2 of the failed step" in page
    assert "OSError" in page
    assert visitor.post(f"{kept}/run-now").status_code == 303
    assert "waiting: no warm worker is alive" in visitor.get(kept).text
    assert "Retry now" not in visitor.get(kept).text
    assert visitor.post(f"{kept}/run-now").status_code == 409


def test_a_function_is_paused_its_failures_replayed_and_the_failing_one_comes_first(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    send([Event("greet/requested", {"n": n}) for n in range(3)])
    run_through(functions["greet"], error="boom")
    page = visitor.get("/dev/functions").text
    assert page.index('id="function-greet"') < page.index('id="function-also"')
    dead = visitor.get("/dev/functions/greet?only=dead-letters").text
    assert dead.count("boom") == 3
    assert dead.count('<span class="tag failed">failed</span>') == 3
    assert visitor.post("/dev/functions/greet/pause").headers["location"] == "/dev/functions"
    assert "Resume" in visitor.get("/dev/functions/greet").text
    assert (
        visitor.post("/dev/functions/greet/replay-failures").headers["location"]
        == "/dev/functions/greet"
    )
    assert wait_until(
        lambda: count("runyard.invocations") == 9
    )  # three for each of two functions, and three replays
    page = visitor.get("/dev/functions/greet?only=dead-letters").text
    assert "None." in page
    assert batch_claims.claim(functions["greet"]) == []
    visitor.post("/dev/functions/greet/resume")
    assert batch_claims.claim(functions["greet"])
    assert visitor.post("/dev/functions/none/pause").status_code == 404


def test_health_tells_what_waits_and_since_when(
    visitor: Visitor, functions: dict[str, Function]
) -> None:
    assert "The queues are empty." in visitor.get("/dev/health").text
    send([Event("also/one"), Event("also/two")])
    with database.connection() as connection:
        connection.execute(
            b"UPDATE runyard.invocations SET due_at = now() - interval '90 s' WHERE id = 1"
        )
    page = visitor.get("/dev/health").text
    assert re.search(r"<dt>queued</dt><dd>2</dd>", page)
    assert re.search(r"<dt>oldest due for</dt><dd>9\d\.\d s</dd>", page)
    assert re.search(r"<dt>events per second</dt><dd>0\.2</dd>", page)
    assert "/dev/functions/also" in page
    assert "the oldest has been due for 9" in page


def test_an_event_is_sent_by_form_and_by_json(visitor: Visitor) -> None:
    fields = {
        "data.to": "ada@example.com\r\nbob@example.com",
        "data.subject": "Hi",
        "data.text": "one\r\ntwo",
    }
    answer = visitor.post(
        "/dev/send", name="email/send.requested", mode="form", do="send", id="once", **fields
    )
    assert answer.status_code == 303
    again = visitor.post(
        "/dev/send", name="email/send.requested", mode="form", do="send", id="once", **fields
    )
    assert again.headers["location"] == answer.headers["location"]
    assert count() == 1
    page = visitor.get(answer.headers["location"]).text
    assert "bob@example.com" in page
    assert "dev page" in page
    assert "one\\ntwo" in page
    raw = visitor.post(
        "/dev/send",
        name="any/thing",
        mode="json",
        json='{"a": [1, {"b": null}]}',
        do="send",
        at="2099-01-01T00:00:00Z",
    )
    assert raw.status_code == 303
    assert count() == 2
    like = visitor.get(f"/dev/send?event={raw.headers['location'].rpartition('/')[2]}").text
    assert "any/thing" in like
    assert "&#34;b&#34;: null" in like


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"name": "email/send.requested", "mode": "form", "data.to": "nobody"},
            "is not an e-mail address",
        ),
        (
            {
                "name": "email/send.requested",
                "mode": "form",
                "data.to": "ada@example.com",
                "data.attachments": "{",
            },
            "this is not JSON",
        ),
        (
            {"name": "email/send.requested", "mode": "json", "json": '{"to": 3}'},
            "Input should be a valid list",
        ),
        ({"name": "a/b", "mode": "json", "json": "[1]"}, "not a JSON object"),
        ({"name": "a/b", "mode": "json", "json": "[" * 100_000}, "it is nested too deeply"),
        ({"name": "a/b", "mode": "json", "json": f'{{"n": {"9" * 10_000}}}'}, "more than 4300"),
        ({"name": "a/b", "mode": "json", "json": '{"a": "\\u0000"}'}, "NUL"),
        ({"name": "a/b", "mode": "json", "json": '{"a": NaN}'}, "not JSON"),
        ({"name": "runyard/mine", "mode": "json", "json": "{}"}, "reserved for internal events"),
        ({"name": "a" * 600, "mode": "json", "json": "{}"}, "1 to 512 characters"),
        ({"name": "a/b", "mode": "json", "json": "{}", "at": "whenever"}, "write a date or time"),
        ({"name": "a/b", "mode": "json", "json": "{}", "at": "1900-01-01"}, "between the years"),
    ],
)
def test_an_error_in_the_form_is_shown_and_nothing_is_sent(
    visitor: Visitor, fields: dict[str, str], says: str
) -> None:
    answer = visitor.post("/dev/send", do="send", **fields)
    assert answer.status_code == 400
    assert says in answer.text
    assert 'role="alert"' in answer.text
    assert count() == 0


def test_an_id_that_another_transaction_holds_is_not_waited_for(
    web: WebProcess, visitor: Visitor
) -> None:
    with database.transaction() as connection:
        web.hold(connection, "a/b", "held")
        answer = visitor.post("/dev/send", name="a/b", mode="json", json="{}", do="send", id="held")
    assert answer.status_code == 503
    assert "another transaction holds a lock that this needs" in answer.text
    assert answer.headers["retry-after"]
    assert count() == 1


def test_a_check_says_the_same_and_shows_the_code(visitor: Visitor) -> None:
    answer = visitor.post("/dev/send", name="a/b", mode="json", json='{"n": 1}', do="check")
    assert answer.status_code == 200
    assert "runyard.send(" in answer.text
    assert "$RUNYARD_KEY" in answer.text
    assert count() == 0


def test_a_key_for_some_events_sees_none_of_it(web: WebProcess) -> None:
    _, key = api_keys.create("shop-only", ["read", "send"], events=["shop/*"])
    visitor = Visitor(web)
    visitor.log_in(key)
    refused = visitor.get("/dev")
    assert refused.status_code == 403
    assert "use an unrestricted key" in refused.text
    assert (
        visitor.post("/dev/send", name="shop/paid", mode="json", json="{}", do="send").status_code
        == 403
    )


def test_a_page_is_a_stream_of_its_live_part_that_changes_with_it(visitor: Visitor) -> None:
    with visitor.http.stream(
        "GET", "/dev?name=nobody/waits", headers={"Accept": "text/event-stream"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1500"
        assert "No event matches" in message(lines)
        [event_id] = send("nobody/waits", {"a\nb": "<script>"})
        assert f'id="event-{event_id}"' in message(lines)


def message(lines: Iterator[str], event: str = "message") -> str:
    """The data of the next message with an event."""
    name, found = "", list[str]()
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append(line.removeprefix("data: "))
        elif found and name == event:
            break
        else:
            found = []
    return "\n".join(found)


@pytest.fixture
def bad_code() -> Iterator[CodeProblem]:
    """Code on disk that does not load, as the web process finds it noted."""
    problem = CodeProblem("NameError: <b>name</b>", "shop/orders.py", 12)
    remember_problem(problem)
    yield problem
    remember_problem(None)


@pytest.mark.parametrize("path", ["/dev", "/dev/functions", "/dev/send", "/dev/health"])
def test_code_that_does_not_load_is_shown_on_every_page(
    visitor: Visitor, bad_code: CodeProblem, path: str
) -> None:
    page = visitor.get(path).text
    assert "<strong>The code does not load.</strong> <code>shop/orders.py:12</code>" in page
    assert "NameError: &lt;b&gt;name&lt;/b&gt;" in page


def test_who_is_not_logged_in_does_not_see_what_the_code_is_like(
    web: WebProcess, bad_code: CodeProblem
) -> None:
    assert "orders.py" not in Visitor(web).get("/dev").text
    assert Visitor(web).get("/dev/code").status_code == 401


@pytest.mark.parametrize("path", ["/dev", "/dev/code"])
def test_an_open_page_learns_that_the_code_does_not_load_and_that_it_does_again(
    visitor: Visitor, path: str
) -> None:
    with visitor.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        lines = answer.iter_lines()
        assert message(lines, "code") == ""
        remember_problem(CodeProblem("NameError: x", "shop/orders.py", 12))
        try:
            assert "shop/orders.py:12" in message(lines, "code")
        finally:
            remember_problem(None)
        assert message(lines, "code") == ""


def test_the_health_page_has_the_check_of_the_code(visitor: Visitor, bad_code: CodeProblem) -> None:
    says = "the code does not load: shop/orders.py:12: NameError"
    wait_until(lambda: says in visitor.get("/dev/health").text, 40)


def test_no_secret_is_on_a_page(visitor: Visitor, functions: dict[str, Function]) -> None:
    send(
        "also/one",
        {
            "key": "github-secret",
            "url": "https://user:hunter2secret@example.com/",
            "text": "stripe-secret",
        },
    )
    [invocation] = run_through(functions["also"], error="failed with github-secret")
    page = visitor.get(f"/dev/invocations/{invocation}").text
    assert "github-secret" not in page
    assert "stripe-secret" not in page
    assert "hunter2secret" not in page
    assert page.count("[redacted]") >= 4
    with visitor.http.stream(
        "GET", f"/dev/invocations/{invocation}", headers={"Accept": "text/event-stream"}
    ) as answer:
        assert "github-secret" not in message(answer.iter_lines())


def test_an_error_page_shows_the_id_of_its_request(visitor: Visitor) -> None:
    page = visitor.get("/dev/invocations/987654")
    assert page.status_code == 404
    assert f"Request id: <code>{page.headers['x-request-id']}</code>" in page.text
