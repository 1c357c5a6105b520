"""The request of a call: the event, what has been done so far, and how far the run is.

The body is canonical JSON. Events and the memos of steps are made canonical once, when they are
known, and their texts are put together at every call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from runyard.apps.canonical_json import canonical
from runyard.apps.checkpoints import Dispatch
from runyard.events import Event
from runyard.functions.registry import INVOKED

MAX_CALL_BYTES = 4 * 1024 * 1024
GO_ON = "step"
FIRST_VERSION = -1
_INVOKED_THERE = "inngest/function.invoked"


@dataclass
class Memos:
    """What the steps of a run have come to, by their ids, in the order in which they ended."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    size: int = 0

    def add(self, step: str, memo: Any) -> None:
        """Add the memo of a step that has ended."""
        text = canonical(memo)
        self.texts[step] = text
        self.size += len(text)

    def __contains__(self, step: str) -> bool:
        return step in self.texts

    @property
    def stack(self) -> list[str]:
        """The ids of the steps, in the order in which they ended."""
        return list(self.texts)

    def to_json(self) -> str:
        """The memos as canonical JSON."""
        return "{" + ",".join(f'"{id}":{self.texts[id]}' for id in sorted(self.texts)) + "}"


@dataclass(frozen=True)
class Call:
    """What is asked of an application.

    Attributes
    ----------
    run_id
        The run's id in the protocol.
    events
        The run's events as `event_json` has them; the first one is the event.
    memos
        The steps that have ended.
    attempt, max_attempts
        The number of this attempt, from 0, and how many there are.
    version
        The version that the SDK answered first; -1 before that.
    step
        The id of the step to run; `step` to go on wherever the function is.
    in_parallel
        Whether new steps are to be planned, not run at once.
    request_id
        Another one for each request.
    dispatch
        With it the application may send checkpoints; None when it may not.
    """

    run_id: str
    events: Sequence[str]
    memos: Memos
    attempt: int = 0
    max_attempts: int = 4
    version: int = FIRST_VERSION
    step: str = GO_ON
    in_parallel: bool = False
    request_id: str = ""
    dispatch: Dispatch | None = None

    def body(self) -> bytes:
        """Return the body; without events and memos if it would be too large with them."""
        events = self.events
        memos = self.memos.to_json()
        most = MAX_CALL_BYTES - 4096 - sum(map(len, self.memos.stack)) * 2
        is_large = len(memos) + sum(map(len, events)) + len(events[0]) > most
        context = {
            "attempt": self.attempt,
            "disable_immediate_execution": self.in_parallel,
            "env": "",
            "max_attempts": self.max_attempts,
            "request_id": self.request_id,
            "run_id": self.run_id,
            "stack": {"current": len(self.memos.stack), "stack": self.memos.stack},
            "step_id": self.step,
            "use_api": is_large,
        }
        if self.dispatch is not None:
            context["fn_id"] = self.dispatch.function
            context["generation_id"] = self.dispatch.number
            context["job_id"] = context["qi_id"] = self.dispatch.token
        parts = {
            "ctx": canonical(context),
            "event": events[0],
            "events": "[]" if is_large else f"[{','.join(events)}]",
            "steps": "{}" if is_large else memos,
            "use_api": "true" if is_large else "false",
            "version": str(self.version),
        }
        return ("{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}").encode()

    def headers(self) -> Mapping[str, str]:
        """Return the headers, without the signature."""
        headers = {
            "content-type": "application/json",
            "x-inngest-req-version": str(self.version),
            "x-request-id": self.request_id,
            "x-run-id": self.run_id,
        }
        if self.dispatch is not None:
            headers["x-inngest-generation-id"] = str(self.dispatch.number)
            headers["x-inngest-job-id"] = self.dispatch.token
        return headers


def call_url(url: str, function: str, step: str) -> str:
    """Return the URL to call for a function, with `fnId` and `stepId` in place of any there."""
    parts = urlsplit(url)
    own = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in ("fnId", "stepId", "step")
    ]
    query = urlencode([*own, ("fnId", function), ("stepId", step)])
    return urlunsplit(parts._replace(query=query, fragment=""))


def events_json(events: Sequence[Event]) -> str:
    """Return events as applications see them, as canonical JSON."""
    return f"[{','.join(map(event_json, events))}]"


def event_json(event: Event) -> str:
    """Return an event as applications see it, as canonical JSON.

    An invocation has its name in the protocol.
    """
    shown: dict[str, Any] = {
        "id": event.id or "",
        "name": _INVOKED_THERE if event.name == INVOKED else event.name,
        "data": dict(event.data),
        "ts": event.ts or 0,
        "user": dict(event.user or {}),
    }
    return canonical(shown if event.v is None else {**shown, "v": event.v})
