"""The options of an application's function become triggers, retries and flow control."""

import json
from typing import Any

import pytest

from runyard.apps.crontab import parse_cron
from runyard.apps.registration import (
    AppFunction,
    InvalidRegistration,
    checked_url,
    parse_registration,
)
from runyard.errors import InvalidOption
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.triggers import Trigger

URL = "http://localhost:3000/api/inngest"


def parse(*functions: Any, **more: Any) -> Any:
    body = {"appName": "a", "url": URL, "functions": functions, **more}
    return parse_registration(json.dumps(body).encode())


def made(**options: Any) -> AppFunction:
    function: AppFunction = parse({"id": "a-b", **options}).functions[0]
    return function


def flow(**options: Any) -> Any:
    return made(triggers=[{"event": "x"}], **options).function.flow


def refused(**options: Any) -> str:
    with pytest.raises(InvalidRegistration) as raised:
        made(**options)
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (5, (Concurrency(5),)),
        (0, ()),
        ({"limit": 2, "key": "event.data.a"}, (Concurrency(2, "data.a"),)),
        ([{"limit": 4}, {"limit": 2}], (Concurrency(2),)),
        ({"fn": [{"limit": 3}], "step": [1]}, (Concurrency(1),)),
        (
            {"limit": 2, "scope": "account", "key": '"openai"'},
            (Concurrency(2, None, 'account "openai"'),),
        ),
        (
            {"limit": 2, "key": "event.data.a + '-' + event.data.b"},
            (Concurrency(2, "event.data.a + '-' + event.data.b"),),
        ),
    ],
)
def test_concurrency(given: Any, limits: tuple[Concurrency, ...]) -> None:
    assert flow(concurrency=given).concurrency == limits


@pytest.mark.parametrize(
    ("option", "given", "name", "rule"),
    [
        ("throttle", {"limit": 2, "period": "1m"}, "throttle", Throttle(2, "1m", burst=1)),
        (
            "throttle",
            {"limit": 2, "period": "1m", "burst": 5},
            "throttle",
            Throttle(2, "1m", burst=5),
        ),
        ("rateLimit", {"limit": 9, "period": "1h"}, "rate_limit", RateLimit(9, "1h")),
        ("idempotency", "event.data.id", "idempotency", Idempotency("data.id")),
        ("debounce", {"period": "5s"}, "debounce", Debounce("5s")),
        (
            "debounce",
            {"period": "5s", "timeout": "1m", "key": "event.data.a"},
            "debounce",
            Debounce("5s", "data.a", 60.0),
        ),
        (
            "batchEvents",
            {"maxSize": 10, "timeout": "5s"},
            "batch",
            BatchEvents(10, "5s", together=True),
        ),
        (
            "batchEvents",
            {"maxSize": 5, "key": "event.data.a", "if": "event.data.b"},
            "batch",
            BatchEvents(5, 60.0, "data.a", together=True, condition="event.data.b"),
        ),
        ("priority", {"run": "event.data.n"}, "priority", Priority("data.n")),
        ("priority", {"run": "-700"}, "priority", -600),
        (
            "priority",
            {"run": "event.data.paid ? 60 : 0"},
            "priority",
            Priority("event.data.paid ? 60 : 0"),
        ),
        (
            "Singleton",
            {"mode": "cancel", "key": "event.data.a"},
            "singleton",
            Singleton("cancel", "data.a"),
        ),
        ("timeouts", {"start": "10s", "finish": "1h"}, "timeouts", Timeouts("10s", "1h")),
        (
            "cancel",
            [{"event": "x/off", "if": "async.data.id == event.data.id", "timeout": "1d"}],
            "cancel_on",
            (CancelOn("x/off", condition="async.data.id == event.data.id", timeout="1d"),),
        ),
    ],
)
def test_flow_control(option: str, given: Any, name: str, rule: Any) -> None:
    assert getattr(flow(**{option: given}), name) == rule


def test_idempotency_takes_the_place_of_a_rate_limit() -> None:
    both = flow(idempotency="event.data.id", rateLimit={"limit": 1, "period": "1m"})
    assert (both.idempotency, both.rate_limit) == (Idempotency("data.id"), None)


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ({"event": "x"}, Trigger("x")),
        ({"event": "x/*", "expression": None}, Trigger("x/*")),
        (
            {"event": "x", "expression": "event.data.n > 1"},
            Trigger("x", condition="event.data.n > 1"),
        ),
        (
            {"event": "x", "expression": 'event.data.k == "v"'},
            Trigger("x", 'strict $."data"."k" == "v"'),
        ),
    ],
)
def test_triggers(trigger: Any, expected: Trigger) -> None:
    assert made(triggers=[trigger]).function.triggers == (expected,)


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, 5),
        ({"steps": {"step": {"retries": {"attempts": 0}}}}, 1),
        ({"retries": 2}, 3),
        ({"retries": 20}, 20),
    ],
)
def test_retries_are_attempts_but_one(options: Any, attempts: int) -> None:
    assert made(**options).function.retry.attempts == attempts


def test_more_retries_than_there_are_is_said() -> None:
    assert parse({"id": "a-b", "retries": 20}).warnings == (
        "a-b: it is retried 19 times at most, not 20 times",
    )


def test_an_old_sdk_with_a_security_problem_is_said() -> None:
    assert "CVE-2026-42047" in parse(sdk="js:v3.22.0").warnings[0]
    assert parse(sdk="js:v3.54.2").warnings == ()


def test_a_cron_has_a_zone_and_jitter() -> None:
    [schedule] = made(
        triggers=[{"cron": "TZ=Europe/Paris 0 5 * * mon-fri", "jitter": "2m"}]
    ).schedules
    assert (schedule.cron.schedule, schedule.cron.timezone) == ("0 5 * * mon-fri", "Europe/Paris")
    assert (schedule.cron.overlap, schedule.cron.catch_up, schedule.jitter) == (
        "allow",
        "last",
        120,
    )


@pytest.mark.parametrize(
    "text", ["* * * *", "60 * * * *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", ""]
)
def test_what_is_no_cron_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="is not a cron expression"):
        parse_cron(text)


@pytest.mark.parametrize("text", ["*/5 0-6,8 1 jan-mar SUN", "@daily", "TZ=UTC 1 2 3 4 7"])
def test_what_is_a_cron_is_taken(text: str) -> None:
    assert len(parse_cron(text).parts) == 1


def test_a_function_that_only_others_invoke_has_no_triggers() -> None:
    assert made().function.triggers == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"triggers": "x"}, "function a-b, triggers: give a list, not text"),
        ({"triggers": [{}]}, "function a-b, triggers[0].event: it is missing"),
        (
            {"throttle": {"limit": 0, "period": "1m"}},
            "function a-b, throttle: Throttle(limit=0): give a whole number from 1",
        ),
        (
            {"concurrency": {"limit": 1, "scope": "x"}},
            "function a-b, concurrency[0].scope: give fn, env or account, not 'x'",
        ),
        ({"singleton": {"mode": "x"}}, "function a-b, singleton.mode: give skip or cancel"),
        ({"retries": -1}, "function a-b, retries: give 0 or more"),
        ({"debounce": {"period": "x"}}, "function a-b, debounce: Debounce(period=...): 'x' is not"),
        *(
            (
                {"batchEvents": {"maxSize": 2}, option: rule},
                f"function a-b, {option}: a function with batchEvents cannot have this too",
            )
            for option, rule in (
                ("cancel", [{"event": "x"}]),
                ("debounce", {"period": "5s"}),
                ("singleton", {"mode": "skip"}),
                ("priority", {"run": "event.data.n"}),
            )
        ),
        (
            {"batchEvents": {"maxSize": 2, "if": "event.data. +"}},
            "function a-b, batchEvents.if: not an expression at character 13",
        ),
        (
            {"concurrency": {"limit": 1, "key": "event.data. +"}},
            "function a-b, concurrency[0].key: not an expression at character 13",
        ),
    ],
)
def test_what_is_wrong_is_said_with_function_and_field(options: Any, words: str) -> None:
    assert f"at least one function is invalid: {words}" in refused(**options)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://0.0.0.0:3000/x?a=1#b", "http://localhost:3000/x?a=1"),
        ("https://shop.example:443/x", "https://shop.example/x"),
        ("http://[::1]:80/x", "http://[::1]/x"),
    ],
)
def test_urls_have_one_form(text: str, url: str) -> None:
    assert checked_url(text, "url") == url


@pytest.mark.parametrize(
    "text", ["file:///x", "http://", "http://a:b@c/", "http://h:99999/", "http://a b/", "x"]
)
def test_what_cannot_be_called_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="url: "):
        checked_url(text, "url")


def test_an_answer_to_an_in_band_sync_is_read_too() -> None:
    body = {
        "app_id": "shop",
        "url": URL,
        "functions": [{"id": "shop-a"}],
        "sdk_language": "js",
        "sdk_version": "4.24.0",
        "framework": "nextjs",
    }
    app = parse_registration(json.dumps(body).encode())
    assert (app.name, app.sdk, app.framework) == ("shop", "js:v4.24.0", "nextjs")


def test_a_limit_beside_a_singleton_is_allowed() -> None:
    options = {
        "singleton": {"key": "event.data.n"},
        "concurrency": {"limit": 3, "key": "event.data.n"},
    }
    assert flow(**options).concurrency == (Concurrency(3, "data.n"),)


def test_a_trigger_may_be_covered_by_another_one() -> None:
    triggers = [{"event": "shop/*"}, {"event": "shop/sold", "expression": "event.data.a == 'b'"}]
    assert len(made(triggers=triggers).function.triggers) == 2


@pytest.mark.parametrize(
    ("sdk", "warned"),
    [
        ("js:v3.21.0", False), ("js:v3.22.0", True), ("js:v3.53.1", True), ("js:v3.53.2", False),
        ("js:v4.24.0", False), ("py:v3.30.0", False),
    ],
)  # fmt: skip
def test_an_sdk_with_a_known_hole_is_warned_of(sdk: str, warned: bool) -> None:
    assert any("CVE-2026-42047" in text for text in parse(sdk=sdk).warnings) is warned
