"""The page of an invocation: absolute times, the inputs of steps, the usage of language models."""

import json
import re
from collections.abc import Mapping
from html import unescape

import pytest
from playwright.sync_api import expect

from runyard import send
from runyard.engine import batch_claims, batch_leases, checkpoints, settlement
from runyard.engine.progress import Reporter
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from runyard.store import database
from tests.browser import chromium
from tests.http.visitor import Visitor
from tests.web_process import WebProcess


@pytest.fixture
def visitor(web: WebProcess) -> Visitor:
    return Visitor(web, "all")


@pytest.fixture
def also(functions: dict[str, Function]) -> Function:
    return functions["also"]


def done(function: Function, steps: Mapping[str, object], data: object = None) -> int:
    """Send an event with this data, run its invocation with these results, and return its id."""
    send("also/one", {"data": data})
    [claim, *_] = batch_claims.claim(function) or []
    begun = batch_leases.begin(claim.batch_id, "run-1")
    assert begun is not None
    [invocation] = [row["id"] for row in begun[1]]
    for second, (step, output) in enumerate(steps.items(), 1):
        row = (invocation, 1, json.dumps(output), None, second - 0.5, float(second))
        checkpoints.save_steps(claim.batch_id, "run-1", step, [row])
    settlement.settle(claim.batch_id, "run-1", [Outcome(invocation, "succeeded")])
    return int(invocation)


def running(function: Function) -> tuple[int, str]:
    """Send an event, begin its invocation in run-1, and return the ids of it and of its batch."""
    send("also/one")
    [claim, *_] = batch_claims.claim(function) or []
    begun = batch_leases.begin(claim.batch_id, "run-1")
    assert begun is not None
    return int(begun[1][0]["id"]), claim.batch_id


def write(batch: str, step: str, invocation: int, text: str) -> None:
    """Let a step write a text."""
    reporter = Reporter(batch, "run-1", step)
    reporter.write(invocation, text)
    reporter.save()


def inputs(page: str) -> list[list[tuple[str, str]]]:
    """What each step of a page has received: names and values."""
    return [
        re.findall(r"<li><a href=[^>]+>(.+?)</a> <code>(.*?)</code>", received)
        for received in re.findall(r'<ul class="received">(.*?)</ul>', page, re.DOTALL)
    ]


def test_a_step_has_received_the_event_and_the_results_before_it(
    visitor: Visitor, also: Function
) -> None:
    invocation = done(also, {"first": 1, "second": {"a": "<b>"}, "third": None}, data="x")
    page = visitor.get(f"/dev/invocations/{invocation}").text
    event = ("The event's data", "{&#34;data&#34;: &#34;x&#34;}")
    second = ("second", "{&#34;a&#34;: &#34;&lt;b&gt;&#34;}")
    assert inputs(page) == [[event], [event, ("first", "1")], [event, ("first", "1"), second]]


def test_an_input_leads_to_the_result_in_full(visitor: Visitor, also: Function) -> None:
    invocation = done(also, {"first step": 1, "second": 2})
    page = visitor.get(f"/dev/invocations/{invocation}").text
    assert 'href="#output-first%20step"' in page
    assert 'id="output-first%20step"' in page


def test_long_inputs_are_cut_and_only_the_latest_ten_are_listed(
    visitor: Visitor, also: Function
) -> None:
    invocation = done(also, {f"step-{number}": "x" * 1000 for number in range(13)})
    page = visitor.get(f"/dev/invocations/{invocation}").text
    *_, last = inputs(page)
    assert [name for name, _ in last[1:]] == [f"step-{number}" for number in range(2, 12)]
    assert {len(value) for _, value in last[1:]} == {len("&#34;") + 160}
    assert "the results of 2 earlier steps" in page


def test_secrets_are_redacted_before_an_input_is_cut(visitor: Visitor, also: Function) -> None:
    secret = "password=hunter2hunter2hunter2"
    invocation = done(also, {"first": "x" * 150 + secret, "second": 2})
    assert "hunter2" not in visitor.get(f"/dev/invocations/{invocation}").text


def test_times_are_absolute_beside_relative_and_in_utc_without_scripts(
    visitor: Visitor, also: Function
) -> None:
    page = visitor.get(f"/dev/invocations/{done(also, {'first': 1})}").text
    received = r"data-at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC</time>.*data-ago>.*: event received"
    assert re.search(received, page)
    assert re.search(r"data-second>00:00:00 UTC</time>\.</p>", page)


@pytest.mark.slow
def test_the_times_of_log_lines_are_in_the_zone_of_the_browser(
    web: WebProcess, also: Function
) -> None:
    invocation = done(also, {"first": 1})
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.step_logs"
            " (invocation_id, run_id, step, attempt, started_at, lines, dropped)"
            " VALUES (%s, 'run-1', 'first', 1, now(), '[[0.25, \"stdout\", \"packing\"]]', 0)",
            (invocation,),
        )
    with chromium() as browser:
        page = browser.new_page(timezone_id="Asia/Tokyo", locale="en-GB")
        page.goto(f"{web.url}/dev/login")
        page.locator("[name=key]").fill(web.keys["all"])
        page.locator("form button").first.click()
        page.goto(f"{web.url}/dev/invocations/{invocation}")
        expect(page.locator(".log time")).to_have_text("09:00:00.250")


def test_an_attempt_that_a_later_one_followed_has_its_duration_and_its_input(
    visitor: Visitor, also: Function
) -> None:
    send("also/one")
    [claim] = batch_claims.claim(also) or []
    begun = batch_leases.begin(claim.batch_id, "run-1")
    assert begun is not None
    [invocation] = [row["id"] for row in begun[1]]
    error = '{"step": "charge", "type": "OSError", "message": "away"}'
    retried = Outcome(invocation, "queued", delay=0, attempt=1, error=error)
    settlement.settle(claim.batch_id, "run-1", [retried])
    page = visitor.get(f"/dev/invocations/{invocation}").text
    [step] = re.findall(r'<ul class="steps">(.*?)</ul>\s*</li>', page, re.DOTALL)
    assert '<svg class="bar failed"' in step
    assert "<summary>Input</summary>" in step


def test_an_output_has_a_heading(visitor: Visitor, also: Function) -> None:
    page = visitor.get(f"/dev/invocations/{done(also, {'first': 1})}").text
    assert '<div class="output" id="output-first"><h4>Output</h4>' in page


def test_a_failure_is_dismissed_on_its_page(visitor: Visitor, also: Function) -> None:
    send("also/one")
    [claim] = batch_claims.claim(also) or []
    batch_leases.begin(claim.batch_id, "run-1")
    error = '{"step": "charge", "type": "OSError", "message": "away"}'
    failed = Outcome(1, "failed", error=error)
    settlement.settle(claim.batch_id, "run-1", [failed])
    assert 'action="/dev/invocations/1/dismiss"' in visitor.get("/dev/invocations/1").text
    answer = visitor.post("/dev/invocations/1/dismiss")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/dev/invocations/1"
    page = visitor.get("/dev/invocations/1").text
    assert '<span class="soft">dismissed</span>' in page
    assert "/dismiss" not in page


def test_what_has_not_failed_is_not_dismissed(visitor: Visitor, also: Function) -> None:
    invocation = done(also, {"first": 1})
    assert "/dismiss" not in visitor.get(f"/dev/invocations/{invocation}").text
    assert visitor.post(f"/dev/invocations/{invocation}/dismiss").status_code == 409


def test_a_step_and_its_invocation_show_models_tokens_and_cost(
    visitor: Visitor, also: Function
) -> None:
    first = {"model": "gpt", "usage": {"prompt_tokens": 1200, "completion_tokens": 34}}
    second = {"model": "gpt", "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.0012}
    page = visitor.get(f"/dev/invocations/{done(also, {'a': first, 'b': second, 'c': 3})}").text
    assert re.findall(r'<span class="soft usage">(.+?)</span>', page) == [
        "gpt: 1,200 tokens in, 34 out",
        "gpt: 10 tokens in, 5 out, $0.0012",
    ]
    assert (
        "2 calls, gpt: 1,210 tokens in, 39 out, $0.0012 without the 1 of unknown cost</dd>" in page
    )


def test_an_invocation_without_a_model_shows_none(visitor: Visitor, also: Function) -> None:
    assert "Language models" not in visitor.get(f"/dev/invocations/{done(also, {'a': 1})}").text


def test_a_running_step_shows_the_end_of_what_it_has_written(
    visitor: Visitor, also: Function
) -> None:
    invocation, batch = running(also)
    text = "password=hunter2 " + "x" * 30_000 + "<b>end"
    write(batch, "poem", invocation, text)
    page = visitor.get(f"/dev/invocations/{invocation}").text
    shown = page.split('aria-label="What poem writes">')[1].split("</pre>")[0]
    assert shown.startswith("…xxx")
    assert shown.endswith("x&lt;b&gt;end")
    assert len(unescape(shown)) == len("…") + 20_000


def test_a_step_that_only_writes_has_no_bar(visitor: Visitor, also: Function) -> None:
    invocation, batch = running(also)
    Reporter(batch, "run-1", "outline").report(invocation, 40, "half of it")
    write(batch, "poem", invocation, "Queues hold the rain")
    page = visitor.get(f"/dev/invocations/{invocation}").text
    assert re.findall(r'<progress[^>]* value="(\d+)', page) == ["40"]
    assert "Queues hold the rain" in page


def test_a_text_is_shown_without_any_report(visitor: Visitor, also: Function) -> None:
    invocation, batch = running(also)
    write(batch, "poem", invocation, "Queues hold the rain")
    assert "Queues hold the rain" in visitor.get(f"/dev/invocations/{invocation}").text


def test_the_latest_report_is_not_hidden_by_what_another_step_writes(
    web: WebProcess, visitor: Visitor, also: Function
) -> None:
    invocation, batch = running(also)
    Reporter(batch, "run-1", "outline").report(invocation, 40, "half of it")
    write(batch, "poem", invocation, "Queues hold the rain")
    latest = web.get(f"/api/invocations/{invocation}").json()["progress"]
    assert latest["step"] == "outline"
    assert latest["percent"] == 40
    assert latest["text"] == "half of it"


def test_a_step_that_is_done_no_longer_shows_what_it_has_written(
    visitor: Visitor, also: Function
) -> None:
    assert "writes</h2>" not in visitor.get(f"/dev/invocations/{done(also, {'poem': 1})}").text
