"""`/openapi.json` and `/docs`, generated from the same objects as the routes."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from runyard.gateway.http.endpoint import NO_OP, Endpoint
from runyard.gateway.http.errors import ErrorBody
from runyard.gateway.http.templates import as_pretty_json, environment

# Returns the reference to a model's schema, for validation (input) or serialization (output).
Refer = Callable[[type[BaseModel], JsonSchemaMode], Mapping[str, Any]]
_ERRORS = {
    400: "The request is invalid; `field` says where.",
    401: "There is no key, or it is not valid.",
    403: "The key may not do this.",
    404: "Not found.",
    408: "The body arrived too slowly.",
    409: "The current state does not allow this.",
    410: "It has ended.",
    413: "The body is too large.",
    415: "The body has a Content-Encoding.",
    422: "The content was refused.",
    429: "Too many requests with this key.",
    501: "This is not supported.",
    502: "An upstream service failed.",
    503: "The database is unavailable, or the service is busy.",
}
_BACKTICKS = re.compile("`([^`]+)`")
_SECURITY = "A key made with `runyard keys create`; in development none is required."
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self';"
        " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_SCRIPT_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"}


def openapi_routes(
    endpoints: Sequence[Endpoint], example: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[BaseRoute]:
    """The routes of both pages, and of the script that sends requests from `/docs`.

    Parameters
    ----------
    example
        Returns a value that fits a JSON Schema, with which the forms are filled in.
    """
    document = openapi_document(endpoints)
    folder = Path(__file__).parent / "pages"
    script = (folder / "docs.js").read_bytes()
    templates = environment([folder], as_pretty_json)
    templates.filters["in_code"] = _in_code
    page = templates.get_template("docs.html").render(
        document=document,
        groups=_groups(endpoints),
        folded=NO_OP,
        schema_of=partial(_schema_of, document),
        example_of=lambda schema: example(_body_schema(document, schema)),
        script=f"/docs.js?{hashlib.blake2b(script, digest_size=6).hexdigest()}",
    )

    # Anybody may call these, as often and as slowly as they like: all get the same bytes.
    as_json, as_html = JSONResponse(document).body, page.encode()

    async def openapi(_: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(as_html, headers=_PAGE_HEADERS)

    async def docs_script(_: Request) -> Response:
        return Response(script, media_type="text/javascript", headers=_SCRIPT_HEADERS)

    return [
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Route("/docs.js", docs_script),
    ]


def openapi_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    inputs = {endpoint.body for endpoint in endpoints}
    outputs = {
        ErrorBody,
        *(endpoint.response for endpoint in endpoints),
        *(model for endpoint in endpoints for _, model in endpoint.other_responses.values()),
    }
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in inputs if model is not None
    ]
    models += [(model, "serialization") for model in outputs if model is not None]
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
            "description": "Send events, and see what the functions they trigger have done.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": _SECURITY,
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
        {"name": name, "in": "query", "required": name in required, "schema": parameter}
        for name, parameter in schema.get("properties", {}).items()
    ]


def _responses(endpoint: Endpoint, refer: Refer) -> dict[str, Any]:
    def response(text: str, model: type[BaseModel] | None) -> dict[str, Any]:
        if model is None:
            return {"description": text}
        schema = refer(model, "serialization")
        return {"description": text, "content": {"application/json": {"schema": schema}}}

    success = response("Success.", endpoint.response)
    for media_type in endpoint.media_types:
        success.setdefault("content", {})[media_type] = {
            "schema": {} if media_type == "text/event-stream" else {"type": "string"}
        }
    responses = {str(endpoint.status): success}
    for status, (text, model) in endpoint.other_responses.items():
        responses[str(status)] = response(text, model)
    for status in _errors(endpoint):
        responses.setdefault(str(status), response(_ERRORS[status], ErrorBody))
    return responses


def _errors(endpoint: Endpoint) -> list[int]:
    statuses = {400, *endpoint.errors}
    if endpoint.scope is not None:
        statuses |= {401, 403, 429, 503}
    if "{" in endpoint.path and "{key}" not in endpoint.path:
        statuses.add(404)
    if endpoint.method in ("POST", "PUT", "PATCH"):
        statuses |= {408, 413, 415}
    return sorted(statuses)


def _schema_of(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """The schema, or the one that it refers to."""
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _body_schema(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a body, or the first of several, with the schemas that it refers to."""
    alternatives = _schema_of(document, schema)
    chosen = next(iter(alternatives.get("oneOf", [])), alternatives)
    return {**chosen, "components": document["components"]}


def _in_code(text: str) -> Markup:
    """A text as HTML, with what stands in backticks as code."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 (escaped)


def _groups(endpoints: Sequence[Endpoint]) -> Mapping[str, list[Endpoint]]:
    groups: dict[str, list[Endpoint]] = {}
    # What does nothing comes last.
    for endpoint in sorted(endpoints, key=lambda each: each.group == NO_OP):
        groups.setdefault(endpoint.group, []).append(endpoint)
    return groups
