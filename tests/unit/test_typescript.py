"""TypeScript types of what pydantic models can hold."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from runyard.cli.typescript import declarations
from tests.typed_models import FIELDS, Colour, Node, Open, written


def type_named(name: str, text: str) -> str:
    """The declaration of a type, in one line."""
    match = re.search(rf"^export type {re.escape(name)} = (.*?);\n(?=\n|\Z)", text, re.M | re.S)
    assert match is not None, text
    return " ".join(match[1].split())


def of_field(annotation: Any, default: Any = ...) -> str:
    """How a model's field `value` is declared."""
    model: type[BaseModel] = create_model("Data", value=(annotation, default))
    declared = type_named("Data", written(model))
    return re.sub(r"/\*\*.*?\*/ ", "", declared).removeprefix("{ ").removesuffix("; }")


@pytest.mark.parametrize(("annotation", "declared"), FIELDS, ids=str)
def test_a_field(annotation: Any, declared: str) -> None:
    assert of_field(annotation) == declared


def test_a_field_with_a_default_may_be_left_out() -> None:
    assert of_field(int, 3) == "value?: number"


def test_a_tuple_whose_end_has_defaults() -> None:
    schema: Mapping[str, Any] = {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "minItems": 1,
        "maxItems": 2,
    }
    assert type_named("Pair", declarations({}, {"Pair": schema})) == "[string, number?]"


def test_a_tuple_that_goes_on() -> None:
    schema: Mapping[str, Any] = {
        "type": "array",
        "prefixItems": [{"type": "string"}],
        "minItems": 1,
        "items": {"type": "integer"},
    }
    assert type_named("Row", declarations({}, {"Row": schema})) == "[string, ...number[]]"


def test_an_enum_is_a_union_of_its_values() -> None:
    model = create_model("Data", value=(Colour, ...))
    assert type_named("Colour", written(model)) == '"red" | "blue"'


def test_a_model_that_takes_more_fields_has_an_index() -> None:
    assert type_named("Open", written(Open)) == "{ name: string; [key: string]: unknown; }"


def test_a_model_without_fields_is_an_empty_object() -> None:
    class Nothing(BaseModel):
        model_config = ConfigDict(extra="forbid")

    assert type_named("Nothing", written(Nothing)) == "{ [key: string]: never }"


def test_a_model_may_refer_to_itself() -> None:
    assert "children?: Node[];" in type_named("Node", written(Node))


def test_a_root_model_is_its_root() -> None:
    class Tags(RootModel[list[str]]):
        pass

    model = create_model("Data", value=(Tags, ...))
    assert type_named("Tags", written(model)) == "string[]"


def test_a_discriminator_is_required_even_with_a_default() -> None:
    class Card(BaseModel):
        kind: Literal["card"] = "card"
        number: str

    class Cash(BaseModel):
        kind: Literal["cash"] = "cash"

    class Payment(BaseModel):
        how: Annotated[Union[Card, Cash], Field(discriminator="kind")]  # noqa: UP007

    text = written(Payment)
    assert "how: Card | Cash;" in type_named("Payment", text)
    assert type_named("Cash", text).endswith('kind: "cash"; }')


def test_models_of_the_same_name_get_names_of_their_own() -> None:
    first = create_model("Item", __module__="shop.a", value=(int, ...))
    second = create_model("Item", __module__="shop.b", value=(str, ...))
    text = written(first, second)
    assert '"a/0": { data: shop__a__Item };' in text
    assert '"a/1": { data: shop__b__Item };' in text


@pytest.mark.parametrize("name", ["Events", "RunyardEvent", "default", "string"])
def test_a_model_may_have_a_name_that_typescript_reserves(name: str) -> None:
    assert f'"a/0": {{ data: {name}_ }};' in written(create_model(name, value=(int, ...)))


def test_a_name_that_is_no_identifier_is_quoted() -> None:
    model = create_model("Data", value=(int, Field(alias="content-type")))
    assert type_named("Data", written(model)) == '{ "content-type": number; }'


def test_what_a_type_cannot_say_is_a_comment() -> None:
    model = create_model(
        "Data",
        value=(
            Annotated[str, Field(min_length=1, pattern="^a", examples=["ab"])] | None,
            Field("abc", description="What it is.\nAnd why."),
        ),
    )
    assert (
        "  /**\n"
        "   * What it is.\n"
        "   * And why.\n"
        "   * @pattern ^a\n"
        "   * @minLength 1\n"
        '   * @default "abc"\n'
        '   * @example "ab"\n'
        "   */\n"
        "  value?: string | null;\n"
    ) in written(model)


def test_no_text_ends_a_comment() -> None:
    model = create_model("Data", value=(int, Field(description="*/ export const x = 1; /*\u2028")))
    assert "/** *\\/ export const x = 1; /* */" in written(model)
