"""The description is true: whatever comes is answered as it says, what it forbids is refused, and nothing is a 500."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from runyard.gateway.app import endpoints
from runyard.gateway.description import describe
from tests.http.conftest import Door

# What is ready is asked of a whole stack elsewhere: 503 is its right answer here.
schema = schemathesis.openapi.from_dict(describe(endpoints())).exclude(path="/readyz")
# All but that every body which fits its schema is taken: mail addresses, cursors and filters have rules that a schema cannot say.
CHECKS: list[Any] = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance, checks.response_headers_conformance, checks.response_schema_conformance,
    checks.negative_data_rejection, checks.missing_required_header, checks.unsupported_method, checks.ignored_auth,
]  # fmt: skip


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_endpoint_does_what_its_description_says(case: schemathesis.Case, door: Door) -> None:
    case.call_and_validate(base_url=door.url, headers={"Authorization": f"Bearer {door.keys['all']}"}, checks=CHECKS)


def test_every_route_is_described(door: Door) -> None:
    described = door.get("/openapi.json", None).json()
    assert {(method.upper(), path) for path, methods in described["paths"].items() for method in methods} == {
        (endpoint.method, endpoint.path) for endpoint in endpoints()
    }
    page = door.get("/docs", None)
    assert page.status_code == 200 and all(endpoint.path in page.text for endpoint in endpoints())
    assert "script" not in page.headers["content-security-policy"] and "<script" not in page.text
