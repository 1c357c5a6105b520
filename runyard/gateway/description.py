"""`/openapi.json` and `/docs`: the endpoints described, from the same objects that make their routes."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute, Route

from runyard.gateway.endpoint import Endpoint
from runyard.gateway.problems import ErrorBody

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "something in the request is wrong; `field` says what", 401: "no key, or none that is known", 403: "the key may not do this", 404: "there is no such thing",
    408: "the body came too slowly", 409: "it cannot be done to it now", 413: "the body is too large", 415: "the body is encoded", 422: "refused for its content",
    429: "too many requests of this key", 502: "a service behind it failed", 503: "the database is away",
}  # fmt: skip
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}


def description_routes(endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """The routes of both pages."""
    described = describe(endpoints)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    page = environment.get_template("docs.html").render(described=described, groups=_groups(endpoints))

    async def openapi(_: Request) -> JSONResponse:
        return JSONResponse(described)

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 description."""
    bodies = {endpoint.body for endpoint in endpoints if endpoint.body is not None}
    models = {ErrorBody, *(endpoint.answer for endpoint in endpoints), *(model for endpoint in endpoints for _, model in endpoint.also.values())}
    answers = [model for model in models if model is not None]
    _, schemas = models_json_schema([*[(model, "validation") for model in bodies], *[(model, "serialization") for model in answers]], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(re.sub(r":\w+\}", "}", endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Runyard", "version": version("runyard"), "description": "Events in, durable functions behind them, everything that they did."},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key made with `runyard keys create`; in development none is asked for."}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in re.findall(r"\{(\w+)", endpoint.path)]
    parameters += [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": text} for name, text in endpoint.headers.items()]
    operation: dict[str, Any] = {
        "tags": [endpoint.group], "summary": endpoint.summary, "parameters": [*parameters, *_query(endpoint.query)], "responses": _responses(endpoint),
    }  # fmt: skip
    body = {"$ref": _REF.format(model=endpoint.body.__name__)} if endpoint.body is not None else endpoint.takes
    if body is not None:
        required = endpoint.body is None or any(field.is_required() for field in endpoint.body.model_fields.values())
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": body}}}
    if endpoint.scope is not None and "{key}" not in endpoint.path:
        operation["security"] = [{"key": []}]
        operation["description"] = f"Needs a key with the scope `{endpoint.scope}`."
    return operation


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    required = schema.get("required", [])
    return [{"name": name, "in": "query", "required": name in required, "schema": found} for name, found in schema.get("properties", {}).items()]


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    good = _response("it went well", endpoint.answer)
    for media in endpoint.media:
        good.setdefault("content", {})[media] = {"schema": {} if media == "text/event-stream" else {"type": "string"}}
    found = {str(endpoint.status): good}
    for status, (text, model) in endpoint.also.items():
        found[str(status)] = _response(text, model)
    for status in _errors(endpoint):
        found.setdefault(str(status), _response(_ERRORS[status], ErrorBody))
    return found


def _response(text: str, model: type[BaseModel] | None) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}} if model is not None else {}
    return {"description": text, **content}


def _errors(endpoint: Endpoint) -> list[int]:
    statuses = {400, *endpoint.errors}
    if endpoint.scope is not None:
        statuses |= {401, 403, 429, 503}
    if "{" in endpoint.path and "{key}" not in endpoint.path:
        statuses.add(404)
    if endpoint.method in ("POST", "PUT", "PATCH"):
        statuses |= {408, 413, 415}
    return sorted(statuses)


def _groups(endpoints: Sequence[Endpoint]) -> Mapping[str, list[Endpoint]]:
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault(endpoint.group, []).append(endpoint)
    return groups
