"""Event types in words, as the catalog shows them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from runyard.events import EventData, event_type
from runyard.gateway.dev.event_types import DescribedEvent, described_events

NAME = "catalog/described"


class Part(BaseModel):
    number: int = Field(description="Which one.", ge=1)


@event_type(NAME, sent_by="this test")
class Described(EventData):
    """Something that
    is described."""

    text: str
    parts: list[Part]
    part: Part | None = None
    kind: Literal["new", "old"] = "new"
    at: datetime | None = None
    point: tuple[float, float] = (0.0, 0.0)
    either: int | str = 0
    anything: Any = None
    limited: Annotated[str, Field(max_length=2000, description="A note.")] = ""


@pytest.fixture(scope="module")
def described() -> DescribedEvent:
    [event] = [
        event for event in described_events({NAME: ["first", "second"]}) if event.name == NAME
    ]
    return event


@pytest.mark.parametrize(
    ("path", "words"),
    {
        "text": "text",
        "parts": "list of objects",
        "parts[].number": "whole number",
        "part": "object",
        "part.number": "whole number",
        "kind": "`new` or `old`",
        "at": "date and time",
        "point": "list of numbers",
        "either": "whole number or text",
        "anything": "anything",
    }.items(),
)
def test_a_type_is_said_in_words(described: DescribedEvent, path: str, words: str) -> None:
    assert {field.path: field.type for field in described.fields}[path] == words


def test_required_fields_are_told_apart(described: DescribedEvent) -> None:
    assert [field.path for field in described.fields if field.required] == [
        "text",
        "parts",
        "parts[].number",
        "part.number",
    ]


def test_a_field_has_its_description_and_bounds(described: DescribedEvent) -> None:
    help = {field.path: field.help for field in described.fields}
    assert help["limited"] == "A note; at most 2,000 characters"


def test_the_functions_that_it_starts_are_those_given(described: DescribedEvent) -> None:
    assert described.starts == ("first", "second")


def test_it_says_who_sends_it(described: DescribedEvent) -> None:
    assert described.sent_by == "this test"


def test_its_summary_is_one_line(described: DescribedEvent) -> None:
    assert described.summary == "Something that is described."
