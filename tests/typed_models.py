"""Models of events, and the TypeScript types of what their fields can hold."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import models_json_schema

from runyard.cli.typescript import declarations


def written(*models: type[BaseModel]) -> str:
    """The declarations of events `a/0`, `a/1` ... with these models as their data."""
    schemas, together = models_json_schema([(model, "validation") for model in models])
    events = {f"a/{number}": schemas[model, "validation"] for number, model in enumerate(models)}
    return declarations(events, together["$defs"])


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str


class Node(BaseModel):
    children: "list[Node]" = []
    by_name: "dict[str, Node]" = {}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


FIELDS: list[tuple[Any, str]] = [
    (str, "value: string"),
    (int, "value: number"),
    (bool, "value: boolean"),
    (None, "value: null"),
    (Any, "value: unknown"),
    (object, "value: unknown"),
    (bytes, "value: string"),
    (datetime, "value: string"),
    (Decimal, "value: number | string"),
    (JsonValue, "value: JsonValue"),
    (int | None, "value: number | null"),
    (str | int | None, "value: string | number | null"),
    (Any | None, "value: unknown"),
    (Literal["a", 'b"c', 3, True, None], 'value: "a" | "b\\"c" | 3 | true | null'),
    (Literal["only"], 'value: "only"'),
    (Colour, "value: Colour"),
    (Address, "value: Address"),
    (Address | None, "value: Address | null"),
    (list[str], "value: string[]"),
    (list[str | None], "value: (string | null)[]"),
    (list[list[int]], "value: number[][]"),
    (list[Any], "value: unknown[]"),
    (set[date], "value: string[]"),
    (tuple[int, str], "value: [number, string]"),
    (tuple[int, ...], "value: number[]"),
    (list[tuple[int, int | None]], "value: [number, number | null][]"),
    (dict[str, int], "value: { [key: string]: number }"),
    (dict[str, Any], "value: { [key: string]: unknown }"),
    (dict[Literal["a", "b"], int], 'value: { [Key in "a" | "b"]?: number }'),
    (dict[Colour, int], 'value: { [Key in "red" | "blue"]?: number }'),
    (dict[Annotated[str, Field(pattern="^x")], int], "value: { [key: string]: number }"),
    (dict[str, list[Address]], "value: { [key: string]: Address[] }"),
]
