"""`/openapi.json` and `/docs`: the endpoints described, from the same objects that make their routes."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from runyard.gateway.http.endpoint import Endpoint
from runyard.gateway.http.errors import ErrorBody
from runyard.gateway.http.templates import as_pretty_json, environment

# Gives where the schema of a model is in the description: as it comes in, or as it goes out.
Refer = Callable[[type[BaseModel], JsonSchemaMode], Mapping[str, Any]]
_ERRORS = {
    400: "something in the request is wrong; `field` says what",
    401: "no key, or none that is known",
    403: "the key may not do this",
    404: "there is no such thing",
    408: "the body came too slowly",
    409: "it cannot be done to it now",
    413: "the body is too large",
    415: "the body is encoded",
    422: "refused for its content",
    429: "too many requests of this key",
    502: "a service behind it failed",
    503: "the database is away",
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def openapi_routes(endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """The routes of both pages."""
    described = openapi_document(endpoints)
    template = environment([Path(__file__).parent / "pages"], as_pretty_json).get_template(
        "docs.html"
    )
    page = template.render(
        described=described, groups=_groups(endpoints), schema_of=partial(_schema_of, described)
    )

    # Anybody may ask, any number of times, and read slowly: all are given the same bytes.
    as_json, as_html = JSONResponse(described).body, page.encode()

    async def openapi(_: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(as_html, headers=_PAGE_HEADERS)

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def openapi_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 description."""
    taken = {endpoint.body for endpoint in endpoints}
    given = {
        ErrorBody,
        *(endpoint.response for endpoint in endpoints),
        *(model for endpoint in endpoints for _, model in endpoint.other_responses.values()),
    }
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in taken if model is not None
    ]
    models += [(model, "serialization") for model in given if model is not None]
    references, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, lambda model, mode: references[model, mode]
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runyard",
            "version": version("runyard"),
            "description": "Events in, durable functions behind them, everything that they did.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key made with `runyard keys create`; in development none is asked for.",
                }
            },
        },
    }


def _operation(endpoint: Endpoint, refer: Refer) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": text,
        }
        for name, text in endpoint.headers.items()
    ]
    operation: dict[str, Any] = {
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "parameters": [*parameters, *_query(endpoint.query)],
        "responses": _responses(endpoint, refer),
    }
    body = refer(endpoint.body, "validation") if endpoint.body is not None else endpoint.body_schema
    if body is not None:
        required = endpoint.body is None or any(
            field.is_required() for field in endpoint.body.model_fields.values()
        )
        operation["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": body}},
        }
    if endpoint.scope is not None and "{key}" not in endpoint.path:
        operation["security"] = [{"key": []}]
        operation["description"] = f"Needs a key with the scope `{endpoint.scope}`."
    return operation


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": found}
        for name, found in schema.get("properties", {}).items()
    ]


def _responses(endpoint: Endpoint, refer: Refer) -> dict[str, Any]:
    def response(text: str, model: type[BaseModel] | None) -> dict[str, Any]:
        return {
            "description": text,
            **(
                {"content": {"application/json": {"schema": refer(model, "serialization")}}}
                if model is not None
                else {}
            ),
        }

    good = response("it went well", endpoint.response)
    for media in endpoint.media_types:
        good.setdefault("content", {})[media] = {
            "schema": {} if media == "text/event-stream" else {"type": "string"}
        }
    found = {str(endpoint.status): good}
    for status, (text, model) in endpoint.other_responses.items():
        found[str(status)] = response(text, model)
    for status in _errors(endpoint):
        found.setdefault(str(status), response(_ERRORS[status], ErrorBody))
    return found


def _errors(endpoint: Endpoint) -> list[int]:
    statuses = {400, *endpoint.errors}
    if endpoint.scope is not None:
        statuses |= {401, 403, 429, 503}
    if "{" in endpoint.path and "{key}" not in endpoint.path:
        statuses.add(404)
    if endpoint.method in ("POST", "PUT", "PATCH"):
        statuses |= {408, 413, 415}
    return sorted(statuses)


def _schema_of(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """A schema itself, where it is only referred to."""
    return (
        described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if "$ref" in schema
        else schema
    )


def _groups(endpoints: Sequence[Endpoint]) -> Mapping[str, list[Endpoint]]:
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.group, []).append(endpoint)
    return groups
