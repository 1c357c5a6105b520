"""A form of a JSON Schema: its fields with the example filled in, and the data of what was typed into them.

Text, numbers, choices, yes or no, lists of such, and objects of all of these have fields; for what else a schema can say a field takes JSON.
A field that is empty is left out, so that the default of the event's type holds. What the data must be is the type's matter, not ours: a field
gives what was typed, as near as it can be read, and the type says what is wrong with it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runyard.gateway.http.body import check_values
from runyard.gateway.http.errors import HttpError

Kind = Literal["text", "line", "whole", "number", "choice", "yes or no", "list", "object", "json"]
Schema = Mapping[str, Any]
_LONG = 300
_DEEPEST = 4
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "pattern": "like {}",
    "format": "a {}",
}
_FORMATS = {
    "email": "ada@example.com",
    "date-time": "2026-01-31T09:00:00Z",
    "date": "2026-01-31",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


@dataclass(frozen=True)
class Field:
    """A field of a form.

    Attributes
    ----------
    path
        Where it stands in the event: `data.to`.
    kind
        `text` may have several lines; a `list` has an element a line; an `object` has `fields`.
    help
        What the schema says of it, and its bounds.
    choices
        What may be chosen.
    """

    path: str
    name: str
    kind: Kind
    required: bool
    help: str = ""
    choices: tuple[str, ...] = ()
    fields: tuple["Field", ...] = ()
    items: Kind = "line"


def fields_of(schema: Schema) -> tuple[Field, ...]:
    """The fields of the schema of an event's data."""
    return _fields(schema, schema, "data", 1)


def _fields(schema: Schema, whole: Schema, path: str, level: int) -> tuple[Field, ...]:
    required = schema.get("required", [])
    return tuple(
        _field(name, found, whole, f"{path}.{name}", name in required, level)
        for name, found in schema.get("properties", {}).items()
    )


def _field(name: str, given: Schema, whole: Schema, path: str, required: bool, level: int) -> Field:
    schema = _simple(given, whole)
    kind = _kind(schema, level)
    inner = _fields(schema, whole, path, level + 1) if kind == "object" else ()
    items = (
        _kind(_simple(schema["items"], whole), level + 1)
        if kind == "list" and "items" in schema
        else "line"
    )
    if kind == "list" and items not in ("line", "text", "whole", "number", "choice"):
        kind = "json"
    return Field(
        path,
        name,
        kind,
        required,
        _help(given, schema),
        tuple(str(one) for one in schema.get("enum", ())),
        inner,
        items,
    )


def _simple(given: Schema, whole: Schema) -> Schema:
    """A schema itself where it is only referred to, and what it is when it is not null."""
    schema = given
    for _ in range(20):
        if "$ref" in schema:
            schema = {
                **_referred(schema["$ref"], whole),
                **{key: value for key, value in schema.items() if key != "$ref"},
            }
        elif (
            len(others := [one for one in schema.get("anyOf", []) if one.get("type") != "null"])
            == 1
        ):
            schema = {
                **{key: value for key, value in schema.items() if key != "anyOf"},
                **others[0],
            }
        else:
            break
    return (
        {**schema, "enum": [schema["const"]]}
        if "const" in schema and "enum" not in schema
        else schema
    )


def _referred(reference: str, whole: Schema) -> Schema:
    found: Any = whole
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~"), {})
    return dict(found)


def _kind(schema: Schema, level: int) -> Kind:
    if "enum" in schema:
        return "choice" if all(isinstance(one, str) for one in schema["enum"]) else "json"
    match schema.get("type"):
        case "string":
            return (
                "line"
                if "format" in schema
                or "pattern" in schema
                or schema.get("maxLength", _LONG + 1) <= _LONG
                else "text"
            )
        case "integer":
            return "whole"
        case "number":
            return "number"
        case "boolean":
            return "yes or no"
        case "array":
            return "json" if "prefixItems" in schema else "list"
        case "object":
            return "object" if schema.get("properties") and level < _DEEPEST else "json"
        case _:
            return "json"


def _help(given: Schema, schema: Schema) -> str:
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    default = given.get("default")
    bounds += [f"{as_text(default)} by default"] if default not in (None, "", [], {}) else []
    return "; ".join([part for part in [given.get("description", ""), ", ".join(bounds)] if part])


def example(schema: Schema) -> dict[str, Any]:
    """Data that fits the schema, of its examples where it has some: what must be there, and what has an example."""
    if schema.get("examples"):
        return dict(schema["examples"][0])
    found = _example(schema, schema, 1)
    return found if isinstance(found, dict) else {}


def _example(given: Schema, whole: Schema, level: int) -> Any:
    schema = _simple(given, whole)
    for known in ("examples", "enum"):
        if schema.get(known):
            return schema[known][0]
    match schema.get("type"):
        case "string":
            return _text(schema)
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "boolean":
            return True
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", {})] * schema.get(
                "minItems", 0
            )
            return [_example(one, whole, level + 1) for one in items]
        case "object":
            wanted = {
                name: found
                for name, found in schema.get("properties", {}).items()
                if name in schema.get("required", []) or _simple(found, whole).get("examples")
            }
            return (
                {name: _example(found, whole, level + 1) for name, found in wanted.items()}
                if level < 2 * _DEEPEST
                else {}
            )
        case _:
            return None


def _text(schema: Schema) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if str(schema.get("pattern", "")).startswith("^https?"):
        return _FORMATS["uri"]
    return "text".ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", _LONG))]


def field_texts(fields: Sequence[Field], data: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the fields for this data, by path."""
    found: dict[str, str] = {}
    for field in fields:
        if field.name not in data or data[field.name] is None:
            continue
        value = data[field.name]
        if field.kind == "object" and isinstance(value, Mapping):
            found |= field_texts(field.fields, value)
        elif field.kind == "list" and isinstance(value, list):
            found[field.path] = "\n".join(as_text(one) for one in value)
        else:
            found[field.path] = (
                json.dumps(value, indent=2, ensure_ascii=False)
                if field.kind == "json"
                else as_text(value)
            )
    return found


def data_of(
    fields: Sequence[Field], given: Mapping[str, str]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The data of what was typed, and what of it cannot be read: the path of the field and why."""
    problems: list[tuple[str, str]] = []
    return _data(fields, given, problems), problems


def _data(
    fields: Sequence[Field], given: Mapping[str, str], problems: list[tuple[str, str]]
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in fields:
        if field.kind == "object":
            inner = _data(field.fields, given, problems)
            if inner or field.required:
                data[field.name] = inner
            continue
        text = given.get(field.path, "").replace("\r\n", "\n")
        if not text.strip():
            continue
        try:
            data[field.name] = _value(field, text)
        except (ValueError, RecursionError, HttpError) as error:
            problems.append((field.path, f"this is not JSON: {error}"))
    return data


def _value(field: Field, text: str) -> Any:
    match field.kind:
        case "list":
            return [
                _scalar(field.items, line.strip()) for line in text.splitlines() if line.strip()
            ]
        case "json":
            check_values(text.encode())
            return json.loads(text)
        case _:
            return _scalar(field.kind, text)


def _scalar(kind: Kind, text: str) -> Any:
    """The value of a text; the text itself where it is none of its kind, for the event's type to refuse."""
    match kind:
        case "whole" | "number" | "yes or no":
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return text
        case "text":
            return text
        case _:
            return text.strip()


def as_text(value: Any) -> str:
    """A value as it is typed into a field."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def problems_by_field(
    fields: Sequence[Field], problems: Sequence[tuple[str, str]]
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Problems by the field that they belong to, and those that belong to none: the deepest field that the problem's path goes through."""
    paths = sorted(_paths(fields), key=len, reverse=True)
    found: dict[str, list[str]] = {}
    others: list[tuple[str, str]] = []
    for path, text in problems:
        place = next(
            (known for known in paths if path == known or path.startswith(f"{known}.")), None
        )
        if place is None:
            others.append((path, text))
        else:
            inner = path[len(place) + 1 :]
            found.setdefault(place, []).append(f"{inner}: {text}" if inner else text)
    return found, others


def _paths(fields: Sequence[Field]) -> Iterator[str]:
    for field in fields:
        yield field.path
        yield from _paths(field.fields)
