"""Which events are valid."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines.events  # noqa: F401
from runyard.errors import InvalidEvent
from runyard.events import EARLIEST_MS, LATEST_MS, MAX_EVENT_BYTES, Event, new_ulid, rows_as_json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=10,
)
storable_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
wire_events = st.fixed_dictionaries(
    {"name": storable_text.filter(bool).map(lambda text: f"any/{text}"[:512])},
    optional={
        "data": st.none() | st.dictionaries(storable_text, storable_text, max_size=4),
        "id": storable_text.filter(bool),
        "ts": st.none() | st.just(0) | st.integers(EARLIEST_MS, LATEST_MS),
        "user": st.none() | st.dictionaries(storable_text, st.integers(), max_size=2),
        "v": st.none() | storable_text,
    },
)
GOOD: dict[str, Any] = {"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}}


def test_ulids_sort_by_time() -> None:
    ids = [new_ulid(millis) for millis in range(1_700_000_000_000, 1_700_000_000_050)]
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", ulid) for ulid in ids)


@given(raw=json_values)
def test_any_json_is_an_event_or_an_error_that_says_why(raw: Any) -> None:
    try:
        [row] = json.loads(rows_as_json([Event.from_wire(raw)]))
    except InvalidEvent as error:
        assert str(error)
    else:
        assert row["name"] == raw["name"]


@given(raw=wire_events)
def test_a_well_formed_event_arrives_unchanged(raw: dict[str, Any]) -> None:
    [row] = json.loads(rows_as_json([Event.from_wire(raw)]))
    expected = {key: value for key, value in raw.items() if value is not None}
    if raw.get("ts") == 0:
        del expected["ts"]
    assert {key: value for key, value in row.items() if key != "ulid"} == {
        "data": {},
        **expected,
    }


@given(data=st.dictionaries(st.text(), json_values, max_size=5))
def test_data_arrives_unchanged_or_is_rejected_for_nul(data: dict[str, Any]) -> None:
    try:
        [row] = json.loads(rows_as_json([Event("any/name", data)]))
    except InvalidEvent:
        assert "\x00" in json.dumps(data, ensure_ascii=False).replace("\\u0000", "\x00")
    else:
        assert row["data"] == data


def test_an_escaped_backslash_is_not_nul() -> None:
    assert rows_as_json([Event("any/name", {"text": "\\u0000"})])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": None}, "data.to"),
        ({"to": ["nobody"]}, "data.to.0"),
        ({"to": []}, "data.to"),
        ({"to": ["a@example.com, b@example.com"]}, "data.to.0"),
        ({"to": ["Eve\r\nBcc: all@example.com <eve@example.com>"]}, "data.to.0"),
        ({"subject": "Hi\r\nBcc: all@example.com"}, "data.subject"),
        ({"reply_to": "x\n@example.com"}, "data.reply_to"),
        ({"template": "nope"}, "data.template"),
        ({"text": "both"}, "data.template"),
        ({"dta": {}}, "data.dta"),
        ({"cc": 5}, "data.cc"),
        ({"send_at": "2099-01-01T00:00:00Z"}, "data.send_at"),
        ({"send_at": "2026-01-01T00:00:00"}, "data.send_at"),
        (
            {"attachments": [{"filename": "a.txt", "content": "not base64!"}]},
            "data.attachments.0.content",
        ),
        (
            {"attachments": [{"filename": "a\r\nb", "content": "YQ=="}]},
            "data.attachments.0.filename",
        ),
        (
            {"attachments": [{"filename": "a.bin", "content": "A" * 500_000}]},
            "data.attachments.0.content",
        ),
    ],
)
def test_an_invalid_mail_is_rejected_with_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Event("email/send.requested", {**GOOD, **change}).checked()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (Event(""), "name"),
        (Event("x" * 513), "name"),
        (Event("runyard/function.failed"), "name"),
        (Event("inngest/x"), "name"),
        (Event("a/b", ts=5), "ts"),
        (Event("a/b", ts=True), "ts"),
        (Event("a/b", data=[1]), "data"),
        (Event("a/b", {"x": float("nan")}), "data.x"),
        (Event("a/b", {"x": "\ud800"}), "data.x"),
        (Event("a/b", {"x": [{}, {"y": "a\0"}]}), "data.x.1.y"),
        (Event("a/b", {"x": {"\ud800": 1}}), "data.x.\ufffd"),
        (Event("a/b", {"x": object()}), "data"),
        (Event("a/b", user={"id": "a\0"}), "user.id"),
        (Event("a/b", meta={"x": float("inf")}), "meta.x"),
        (Event("a/b\0"), "name"),
        (Event("a/b\ud800"), "name"),
        (Event("a/b", id="\ud800"), "id"),
        (Event("a/b", v="\0"), "v"),
        (Event("a/b", {"x": 1}, user={"bio": "y" * MAX_EVENT_BYTES}), "user"),
        (Event("a/b", {"x": "y" * MAX_EVENT_BYTES}), "data"),
    ],
)
def test_an_invalid_event_is_rejected_with_the_field(event: Event, field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        event.checked()
    assert caught.value.field == field


def test_the_invalid_event_of_several_is_named() -> None:
    with pytest.raises(InvalidEvent, match=r"^\[1\]\.name: must be text") as caught:
        rows_as_json([Event("a/b"), Event("")])
    assert caught.value.field == "[1].name"


def test_every_problem_of_an_event_of_several_has_its_path() -> None:
    wrong = Event("email/send.requested", {"to": "nobody", "subject": 1, "text": "t"})
    with pytest.raises(InvalidEvent) as caught:
        rows_as_json([Event("a/b"), wrong])
    assert [field for field, _ in caught.value.problems] == ["[1].data.to", "[1].data.subject"]


def test_an_event_without_a_type_is_accepted_as_it_is() -> None:
    assert Event("order/placed", {"anything": [1, 2]}).checked()


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    ids = [new_ulid() for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000
