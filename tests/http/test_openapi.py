"""The OpenAPI document is true: responses conform, what it forbids is rejected, no 500s."""

import json
import re
from html import unescape
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from runyard.gateway.app import endpoints
from runyard.gateway.http.endpoint import NO_OP
from runyard.gateway.http.openapi import openapi_document
from tests.web_process import WebProcess

# Without a worker and a daemon `/readyz?all=true` responds with 503; tests of the stack cover it.
# What is not supported responds with 501.
NOT_HERE = ["/v1/checkpoint/{run_id}/output", "/v1/http/runs/{run_id}/output"]
schema = schemathesis.openapi.from_dict(openapi_document(endpoints())).exclude(
    path=["/readyz", *NOT_HERE]
)
# Not positive_data_acceptance: email addresses, cursors and filters have rules that a schema cannot
# express.
CHECKS: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.ignored_auth,
]


@schema.parametrize()
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_endpoint_does_what_its_description_says(
    case: schemathesis.Case, web: WebProcess
) -> None:
    case.call_and_validate(
        base_url=web.url, headers={"Authorization": f"Bearer {web.keys['all']}"}, checks=CHECKS
    )


def test_every_route_is_described(web: WebProcess) -> None:
    described = web.get("/openapi.json", None).json()
    assert {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    } == {(endpoint.method, endpoint.path) for endpoint in endpoints()}
    page = web.get("/docs", None)
    assert page.status_code == 200
    assert all(endpoint.path in page.text for endpoint in endpoints())


def test_the_page_runs_one_script_of_its_own_and_calls_this_server_alone(web: WebProcess) -> None:
    page = web.get("/docs", None)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'; connect-src 'self'; form-action 'none'" in policy
    [script] = re.findall(r"<script([^>]*)>", page.text)
    found = web.get(script.split('"')[1], None)
    assert found.status_code == 200
    assert found.headers["content-type"].startswith("text/javascript")
    assert not re.search(r"\bon\w+=|javascript:|https?://", page.text.replace("http://json", ""))


def test_every_endpoint_has_a_form_with_its_parameters_and_a_body_that_fits(
    web: WebProcess,
) -> None:
    page = unescape(web.get("/docs", None).text)
    for endpoint in endpoints():
        [form] = re.findall(
            rf'data-method="{endpoint.method}" data-path="{re.escape(endpoint.path)}".*?</form>',
            page,
            re.DOTALL,
        )
        named = set(re.findall(r'<input name="([^"]+)"', form))
        assert named >= {*re.findall(r"\{(\w+)\}", endpoint.path), *endpoint.headers}
    [form] = re.findall(r'data-method="POST" data-path="/e/{key}".*?</form>', page, re.DOTALL)
    [body] = re.findall(r"<textarea[^>]*>(.*?)</textarea>", form, re.DOTALL)
    assert web.post("/api/events", json.loads(body)).status_code == 200


def test_what_stands_in_backticks_is_code(web: WebProcess) -> None:
    page = web.get("/docs", None).text
    assert "<span>The same as <code>/api/events</code>" in page
    assert "`" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)


def test_a_request_is_tried_above_the_schemas(web: WebProcess) -> None:
    page = web.get("/docs", None).text
    [inside] = re.findall(r"<code>/api/events/\{id\}</code> .*?</details>", page, re.DOTALL)
    assert inside.index("<form") < inside.index("<table")


def test_what_does_nothing_is_folded(web: WebProcess) -> None:
    page = web.get("/docs", None).text
    before, folded = page.split(f'<h2 id="{NO_OP.replace(" ", "-")}">')
    assert not re.search("not supported|not used", before)
    assert "10 endpoints that SDKs of Inngest call" in folded


def test_the_page_leads_to_the_dev_page(web: WebProcess) -> None:
    assert '<a href="/dev">' in web.get("/docs", None).text


RAW = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"[[[[",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"\xff\xfe\x00",
    b'"\\ud800"',
    b'{"\\u0000": "\\u0000"}',
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b'{"data": {"x": 1e400}, "event": "a/b"}',
    b'{"event": "a/b", "event": "c/d"}',
    b'{"function": "\\u0000"}',
    b'{"prompt": "\\u0000"}',
    b'{"event": "' + b"x" * 700_000 + b'"}',
]


@pytest.mark.parametrize(
    "path", sorted({endpoint.path for endpoint in endpoints() if endpoint.method == "POST"})
)
def test_no_body_is_a_500(web: WebProcess, path: str) -> None:
    target = (
        path.replace("{key}", web.keys["all"]).replace("{id}", "1").replace("{action}", "cancel")
    )
    for body in RAW:
        for content_type in ("application/json", "multipart/form-data; boundary=x"):
            answer = web.post(target, content=body, headers={"Content-Type": content_type})
            assert answer.status_code < 500 or answer.json()["code"] in ("provider", "quota"), (
                body[:80],
                answer.text,
            )
            assert (
                answer.status_code < 300
                or {"status", "code", "error", "request_id"} <= answer.json().keys()
            )
