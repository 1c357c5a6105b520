"""Builds a form from a JSON Schema, and event data from what was typed into it.

Texts, numbers, choices, booleans, lists of these, and objects have fields; anything else in a
schema gets a field that takes JSON. An empty field is omitted, so that the default of the event's
type applies. Validation is left to the type: a field yields what was typed, parsed as far as
possible, and the type reports what is wrong with it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runyard.gateway.http.body import check_values
from runyard.gateway.http.errors import HttpError
from runyard.text.error_text import why_not_json

Kind = Literal["text", "line", "whole", "number", "choice", "yes or no", "list", "object", "json"]
Schema = Mapping[str, Any]
# A string that may be longer gets a field of several lines.
_LONG = 300
_MAX_LEVEL = 4
_BOUNDS = {
    "minimum": "at least {:,}",
    "exclusiveMinimum": "more than {:,}",
    "maximum": "at most {:,}",
    "exclusiveMaximum": "less than {:,}",
    "pattern": "matching the regular expression {}",
    "format": "format {}",
}
# The least and the most of a length, with what is counted.
_LENGTHS = {("minLength", "maxLength"): " characters", ("minItems", "maxItems"): ""}
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
        Its path in the event: `data.to`.
    kind
        A `text` may have several lines; a `list` has an element per line; an `object` has `fields`.
    help
        The description in the schema, with its bounds.
    choices
        The values to choose from.
    upload
        Whether a file can be uploaded for it.
    """

    path: str
    name: str
    kind: Kind
    required: bool
    help: str = ""
    choices: tuple[str, ...] = ()
    fields: tuple["Field", ...] = ()
    items: Kind = "line"
    upload: bool = False


def fields_of(schema: Schema) -> tuple[Field, ...]:
    """The fields for the schema of an event's data."""
    return _fields(schema, schema, "data", 1)


def _fields(schema: Schema, root: Schema, path: str, level: int) -> tuple[Field, ...]:
    required = schema.get("required", [])
    return tuple(
        _field(name, declared, root, f"{path}.{name}", name in required, level)
        for name, declared in schema.get("properties", {}).items()
    )


def _field(
    name: str, declared: Schema, root: Schema, path: str, required: bool, level: int
) -> Field:
    schema = resolved(declared, root)
    kind = _kind(schema, level)
    items: Kind = "line"
    if kind == "list" and "items" in schema:
        items = _kind(resolved(schema["items"], root), level + 1)
        if items not in ("line", "text", "whole", "number", "choice"):
            kind = "json"
    return Field(
        path=path,
        name=name,
        kind=kind,
        required=required,
        help=help_of(declared, schema),
        choices=tuple(str(choice) for choice in schema.get("enum", ())),
        fields=_fields(schema, root, path, level + 1) if kind == "object" else (),
        items=items,
        upload=kind in ("line", "text") and schema.get("x-upload") is True,
    )


def resolved(declared: Schema, root: Schema) -> Schema:
    """The declared schema without references, and without the null of an optional value."""
    schema = declared
    for _ in range(20):
        alternatives = [
            option for option in schema.get("anyOf", []) if option.get("type") != "null"
        ]
        if "$ref" in schema:
            schema = {**_referred(schema["$ref"], root), **_without(schema, "$ref")}
        elif len(alternatives) == 1:
            schema = {**_without(schema, "anyOf"), **alternatives[0]}
        else:
            break
    if "const" in schema and "enum" not in schema:
        return {**schema, "enum": [schema["const"]]}
    return schema


def _without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}


def _referred(reference: str, root: Schema) -> Schema:
    schema: Any = root
    for part in reference.removeprefix("#/").split("/"):
        schema = schema.get(part.replace("~1", "/").replace("~0", "~"), {})
    return dict(schema)


def _kind(schema: Schema, level: int) -> Kind:
    if "enum" in schema:
        return "choice" if all(isinstance(value, str) for value in schema["enum"]) else "json"
    match schema.get("type"):
        case "string":
            is_short = schema.get("maxLength", _LONG + 1) <= _LONG
            return "line" if is_short or "format" in schema or "pattern" in schema else "text"
        case "integer":
            return "whole"
        case "number":
            return "number"
        case "boolean":
            return "yes or no"
        case "array":
            return "json" if "prefixItems" in schema else "list"
        case "object":
            return "object" if schema.get("properties") and level < _MAX_LEVEL else "json"
        case _:
            return "json"


def help_of(declared: Schema, schema: Schema) -> str:
    """What to know of a field: its description, its bounds, its default.

    Parameters
    ----------
    declared, schema
        The field's schema as declared, and as `resolved`.
    """
    bounds = [*_lengths(schema)]
    bounds += [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    default = declared.get("default")
    bounds += [f"{as_text(default)} by default"] if default not in (None, "", [], {}) else []
    description = str(declared.get("description") or schema.get("description", ""))
    texts = [description.rstrip(".") if bounds else description, ", ".join(bounds)]
    return "; ".join(text for text in texts if text)


def _lengths(schema: Schema) -> Iterator[str]:
    """How long a text or a list may be."""
    for (least_key, most_key), unit in _LENGTHS.items():
        least, most = schema.get(least_key, 0), schema.get(most_key)
        if least and least == most:
            yield f"exactly {least:,}{unit if least > 1 else unit[:-1]}"
        elif least and most is not None:
            yield f"{least:,} to {most:,}{unit}"
        elif most is not None:
            yield f"at most {most:,}{unit if most > 1 else unit[:-1]}"
        elif least:
            yield f"at least {least:,}{unit if least > 1 else unit[:-1]}"


def example(schema: Schema) -> dict[str, Any]:
    """Data that fits the schema: its own example, or required fields and those with examples."""
    if schema.get("examples"):
        return dict(schema["examples"][0])
    data = _example(schema, schema, 1)
    return data if isinstance(data, dict) else {}


def _example(declared: Schema, root: Schema, level: int) -> Any:
    schema = resolved(declared, root)
    for keyword in ("examples", "enum"):
        if schema.get(keyword):
            return schema[keyword][0]
    match schema.get("type"):
        case "string":
            return _text(schema)
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "boolean":
            return True
        case "array":
            repeated = [schema.get("items", {})] * schema.get("minItems", 0)
            items = schema.get("prefixItems") or repeated
            return [_example(item, root, level + 1) for item in items]
        case "object":
            return _example_object(schema, root, level) if level < 2 * _MAX_LEVEL else {}
        case _:
            return None


def _example_object(schema: Schema, root: Schema, level: int) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        name: _example(declared, root, level + 1)
        for name, declared in schema.get("properties", {}).items()
        if name in required or resolved(declared, root).get("examples")
    }


def _text(schema: Schema) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if str(schema.get("pattern", "")).startswith("^https?"):
        return _FORMATS["uri"]
    return "text".ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", _LONG))]


def field_texts(fields: Sequence[Field], data: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the fields for this data, by path."""
    texts: dict[str, str] = {}
    for field in fields:
        value = data.get(field.name)
        if value is None:
            continue
        if field.kind == "object" and isinstance(value, Mapping):
            texts |= field_texts(field.fields, value)
        elif field.kind == "list" and isinstance(value, list):
            texts[field.path] = "\n".join(as_text(element) for element in value)
        elif field.kind == "json":
            texts[field.path] = json.dumps(value, indent=2, ensure_ascii=False)
        else:
            texts[field.path] = as_text(value)
    return texts


def data_of(
    fields: Sequence[Field], texts: Mapping[str, str]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The data of the typed texts, and the problems: the path of a field, and what is wrong."""
    problems: list[tuple[str, str]] = []
    return _data(fields, texts, problems), problems


def _data(
    fields: Sequence[Field], texts: Mapping[str, str], problems: list[tuple[str, str]]
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in fields:
        if field.kind == "object":
            inner = _data(field.fields, texts, problems)
            if inner or field.required:
                data[field.name] = inner
            continue
        text = texts.get(field.path, "").replace("\r\n", "\n")
        if not text.strip():
            continue
        try:
            data[field.name] = _value(field, text)
        except (ValueError, RecursionError, HttpError) as error:
            problems.append((field.path, f"this is not JSON: {why_not_json(error)}"))
    return data


def _value(field: Field, text: str) -> Any:
    match field.kind:
        case "list":
            lines = [line.strip() for line in text.split("\n")]
            return [_scalar(field.items, line) for line in lines if line]
        case "json":
            check_values(text.encode())
            return json.loads(text)
        case _:
            return _scalar(field.kind, text)


def _scalar(kind: Kind, text: str) -> Any:
    """The value of a text; the text itself if it does not parse, for the event's type to reject."""
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
    """A value as it would be typed into a field."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def problems_by_field(
    fields: Sequence[Field], problems: Sequence[tuple[str, str]]
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Problems by field, and those that belong to none.

    A problem belongs to the deepest field on its path.
    """
    paths = sorted(_paths(fields), key=len, reverse=True)
    by_field: dict[str, list[str]] = {}
    others: list[tuple[str, str]] = []
    for path, text in problems:
        field = next((known for known in paths if f"{path}.".startswith(f"{known}.")), None)
        if field is None:
            others.append((path, text))
        else:
            inner = path[len(field) + 1 :]
            by_field.setdefault(field, []).append(f"{inner}: {text}" if inner else text)
    return by_field, others


def _paths(fields: Sequence[Field]) -> Iterator[str]:
    for field in fields:
        yield field.path
        yield from _paths(field.fields)
