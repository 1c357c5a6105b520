"""Send several events at once: a JSON array of events, or an event a line (NDJSON)."""

from collections.abc import Sequence

from runyard.errors import InvalidEvent
from runyard.events import Event
from runyard.gateway.api.events import MAX_EVENTS
from runyard.gateway.dev.page import Action, Page, PageResponse, Values, Visit
from runyard.gateway.dev.send import send_events
from runyard.gateway.http.body import check_values, client_errors, parse_json
from runyard.gateway.http.errors import HttpError

_MAX_PROBLEMS = 20
_EXAMPLE = """{"name": "order/placed", "data": {"number": 7}}
{"name": "order/placed", "data": {"number": 8}}"""

# The place of an event in the text, and its parsed JSON.
Placed = tuple[str, object]
Problems = Sequence[tuple[str, str]]


def show(visit: Visit) -> Values:
    """The form."""
    del visit
    return _values(_EXAMPLE, [], 0)


def send(visit: Visit) -> PageResponse:
    """Send all of the events and list their ids, or (with `do=check`) report what is wrong.

    All of them are sent, or none.
    """
    text = visit.form_value("events")
    events, problems = _read(text)
    if problems:
        return PageResponse("send_several", _values(text, problems, 0), 400)
    if visit.form_value("do") != "send":
        return PageResponse("send_several", _values(text, [], len(events)), 200)
    ids = send_events(events, visit.caller.sender)
    names = [event.name for event in events]
    return PageResponse("sent_several", {"sent": list(zip(ids, names, strict=True))}, 200)


def _values(text: str, problems: Problems, valid: int) -> Values:
    return {
        "text": text,
        "problems": problems[:_MAX_PROBLEMS],
        "further": max(0, len(problems) - _MAX_PROBLEMS),
        "valid": valid,
        "most": MAX_EVENTS,
    }


def _read(text: str) -> tuple[list[Event], Problems]:
    """The events of a text, or its problems: the place of each, and what is wrong."""
    try:
        with client_errors():
            placed = _parse(text)
    except HttpError as error:
        return [], [(error.field or "", str(error))]
    if not placed:
        return [], [("", "there is no event: write one a line, or an array of them")]
    if len(placed) > MAX_EVENTS:
        message = f"there are {len(placed)} events, and {MAX_EVENTS} may be sent at once"
        return [], [("", message)]
    events: list[Event] = []
    problems: list[tuple[str, str]] = []
    for place, raw in placed:
        try:
            events.append(Event.from_wire(raw).checked())
        except InvalidEvent as error:
            problems += [(f"{place}: {path}".rstrip(": "), text) for path, text in error.problems]
    return events, problems


def _parse(text: str) -> list[Placed]:
    """The JSON of each event with its place; raises `HttpError`."""
    body = text.strip().encode()
    if body.startswith(b"["):
        return [(f"[{number}]", raw) for number, raw in enumerate(parse_json(body))]
    check_values(body)
    # Not `splitlines`: within a text, JSON may have other characters that end lines.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        return [(f"line {number}", _parse_line(number, line)) for number, line in lines]
    except HttpError as error:
        # One event may be written over several lines.
        try:
            return [("the event", parse_json(body))]
        except HttpError:
            raise error from None


def _parse_line(number: int, line: str) -> object:
    try:
        return parse_json(line.encode())
    except HttpError as error:
        message = str(error).replace("the body", "it")
        raise HttpError(error.status, error.code, message, f"line {number}") from None


PAGES = [Page("/send/several", "send_several", show)]
ACTIONS = [Action("/send/several", send, scope="send")]
