"""TypeScript declarations of JSON Schemas, as pydantic writes them.

What TypeScript can say becomes part of a type. The rest (formats, lengths, limits, defaults,
examples) is written as comments, which editors show.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
# Names that no type can have, or that the declarations themselves use.
_WORDS = """
    any as async await bigint boolean break case catch class const continue debugger declare
    default delete do else enum export extends false finally for function if implements import in
    instanceof interface let module namespace never new null number object package private
    protected public return static string super switch symbol this throw true try type typeof
    undefined unique unknown var void while with yield EventName RunyardEvent Events
"""
_RESERVED = frozenset(_WORDS.split())
_PRIMITIVES = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
_TAGS = (
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "contentMediaType",
    "contentEncoding",
)
_HEADER = """\
// Made by `runyard types --typescript`. Make it again when an event type changes.
"""
_EVENTS = """\
/** The names of the events that have a type. */
export type EventName = keyof Events;

/** An event, as the HTTP API takes it. */
export type RunyardEvent = {
  [Name in EventName]: {
    name: Name;
    data: Events[Name]["data"];
    /** An idempotency key: another event with it within 24 hours starts nothing. */
    id?: string;
    /** When it happened, in milliseconds since the epoch; later than now schedules it. */
    ts?: number;
    user?: { [key: string]: unknown };
    v?: string;
  };
}[EventName];
"""


def declarations(events: Mapping[str, Schema], definitions: Mapping[str, Schema]) -> str:
    """Return a declaration file.

    Parameters
    ----------
    events
        The schema of each event's data, by the event's name.
    definitions
        The schemas to which these and each other refer (`#/$defs/...`), by name.
    """
    writer = _Writer(definitions)
    types = [
        f"{_comment(schema, '')}export type {writer.names[name]} = {writer.type_of(schema, '')};\n"
        for name, schema in definitions.items()
    ]
    lines = [
        f"  {_string(name)}: {{ data: {writer.type_of(schema, '  ')} }};\n"
        for name, schema in events.items()
    ]
    about = "/** The data of each event, by its name. */"
    catalog = f"{about}\nexport type Events = {{\n{''.join(lines)}}};\n"
    return "\n".join([_HEADER, catalog, _EVENTS, *types])


class _Writer:
    """Writes schemas as types.

    Parameters
    ----------
    definitions
        The schemas that may be referred to, by name.
    """

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.names = _unique_names(definitions)
        self._definitions = definitions
        self._tags = _discriminators(definitions)

    def type_of(self, schema: Schema | bool, indent: str) -> str:
        """Return the type of the values of a schema; its further lines are indented."""
        if isinstance(schema, bool):
            return "unknown" if schema else "never"
        if "$ref" in schema:
            return self.names[_definition(schema["$ref"])]
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return _union(map(_literal, schema["enum"]))
        for keyword, separator in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
            if keyword in schema:
                members = [self.type_of(member, indent) for member in schema[keyword]]
                return _union(members) if separator == " | " else _intersection(members)
        return self._of_kind(schema, schema.get("type"), indent)

    def _of_kind(self, schema: Schema, kind: object, indent: str) -> str:
        if isinstance(kind, list):
            return _union(self._of_kind(schema, each, indent) for each in kind)
        if kind == "array":
            return self._array(schema, indent)
        if kind == "object" or "properties" in schema:
            return self._object(schema, indent)
        return _PRIMITIVES.get(str(kind), "unknown")

    def _array(self, schema: Schema, indent: str) -> str:
        items = schema.get("items", True)
        if "prefixItems" not in schema:
            return f"{_grouped(self.type_of(items, indent))}[]"
        first = schema["prefixItems"]
        least = schema.get("minItems", 0)
        members = [
            self.type_of(member, indent) if position < least else self._optional(member, indent)
            for position, member in enumerate(first)
        ]
        if items is not False and schema.get("maxItems") != len(first):
            members.append(f"...{_grouped(self.type_of(items, indent))}[]")
        return f"[{', '.join(members)}]"

    def _optional(self, schema: Schema, indent: str) -> str:
        return f"{_grouped(self.type_of(schema, indent))}?"

    def _object(self, schema: Schema, indent: str) -> str:
        inner = f"{indent}  "
        required = {*schema.get("required", ()), *self._tags.get(id(schema), ())}
        members = [
            f"{_comment(member, inner)}{inner}{_property(name)}{'' if name in required else '?'}:"
            f" {self.type_of(member, inner)};\n"
            for name, member in schema.get("properties", {}).items()
        ]
        others = self._others(schema, inner)
        if not members:
            return others or "{ [key: string]: never }"
        if schema.get("additionalProperties", False) is not False:
            members.append(f"{inner}[key: string]: unknown;\n")
        return f"{{\n{''.join(members)}{indent}}}"

    def _others(self, schema: Schema, indent: str) -> str:
        """The type of an object whose keys are not declared; empty when it has none."""
        patterns = list(schema.get("patternProperties", {}).values())
        values = patterns or [schema.get("additionalProperties", "properties" not in schema)]
        if values == [False]:
            return ""
        value = _union(self.type_of(each, indent) for each in values)
        names = self._resolved(schema.get("propertyNames", {}))
        if "enum" in names or "const" in names:
            return f"{{ [Key in {self.type_of(names, indent)}]?: {value} }}"
        return f"{{ [key: string]: {value} }}"

    def _resolved(self, schema: Schema) -> Schema:
        return self._definitions[_definition(schema["$ref"])] if "$ref" in schema else schema


def _definition(reference: str) -> str:
    """The name of the definition that a reference leads to."""
    name = reference.removeprefix("#/$defs/")
    return name.replace("~1", "/").replace("~0", "~")


def _unique_names(definitions: Mapping[str, Schema]) -> dict[str, str]:
    """A name for the type of each definition."""
    names: dict[str, str] = {}
    taken = set(_RESERVED)
    for definition in definitions:
        name = re.sub(r"[^\w$]+", "_", definition, flags=re.ASCII).strip("_") or "Type"
        name = name if _IDENTIFIER.fullmatch(name) else f"_{name}"
        while name in taken:
            name = f"{name}_"
        taken.add(name)
        names[definition] = name
    return names


def _discriminators(definitions: Mapping[str, Schema]) -> dict[int, set[str]]:
    """The properties that tell members of a union apart, by the identity of the member's schema.

    Each is required in an event, even where it has a default.
    """
    tags: dict[int, set[str]] = {}
    for schema in _all_schemas(definitions):
        discriminator = schema.get("discriminator")
        if isinstance(discriminator, Mapping) and "propertyName" in discriminator:
            for reference in discriminator.get("mapping", {}).values():
                member = definitions.get(_definition(str(reference)))
                if member is not None:
                    tags.setdefault(id(member), set()).add(discriminator["propertyName"])
    return tags


def _all_schemas(value: object) -> Iterator[Schema]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _all_schemas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_schemas(inner)


def _union(members: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(members))
    return "unknown" if "unknown" in distinct else " | ".join(distinct) or "never"


def _intersection(members: list[str]) -> str:
    distinct = list(dict.fromkeys(members))
    return distinct[0] if len(distinct) == 1 else " & ".join(map(_grouped, distinct))


def _grouped(written: str) -> str:
    """A type that an operator may follow."""
    element = written.removesuffix("[]")
    simple = _IDENTIFIER.fullmatch(element) or (element[0] in "{[" and _is_closed(element))
    return written if simple else f"({written})"


def _is_closed(written: str) -> bool:
    """Whether the bracket with which a type begins is closed only at its end."""
    depth = 0
    for position, character in enumerate(re.sub(r'"(?:\\.|[^"\\])*"', _blank, written)):
        depth += (character in "{[") - (character in "}]")
        if depth == 0:
            return position == len(written) - 1
    return False


def _blank(match: re.Match[str]) -> str:
    return "_" * len(match[0])


def _literal(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return _string(value)
    return "unknown"  # an object or an array


def _string(value: object) -> str:
    """A value as JSON in ASCII, which is TypeScript too."""
    return json.dumps(value)


def _property(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else _string(name)


def _comment(schema: Schema | bool, indent: str) -> str:
    """What a schema says beyond its type, as a comment; empty when that is nothing."""
    lines = [] if isinstance(schema, bool) else list(_comment_lines(schema))
    if not lines:
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    text = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{text}{indent} */\n"


def _comment_lines(schema: Schema) -> Iterator[str]:
    for line in str(schema.get("description", "")).splitlines():
        yield _safe(line)
    for tag in _TAGS:
        for holder in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            if isinstance(holder, Mapping) and tag in holder:
                whose = " (of each)" if holder is schema.get("items") else ""
                yield _safe(f"@{tag} {_shown(holder[tag])}{whose}")
                break
    if schema.get("deprecated"):
        yield "@deprecated"
    if schema.get("default") is not None:
        yield _safe(f"@default {_string(schema['default'])}")
    holders = (schema, *schema.get("anyOf", ()))
    for example in next((each["examples"] for each in holders if "examples" in each), ()):
        yield _safe(f"@example {_string(example)}")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else _string(value)


def _safe(text: str) -> str:
    """Text that ends no comment."""
    return "".join(character if character.isprintable() else " " for character in text).replace(
        "*/", "*\\/"
    )
