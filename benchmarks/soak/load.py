"""The soak test's events, sent alternately by HTTP and by SQL.

As a real sender would, it resends events that were not accepted, with the same id.
"""

import json
import random
import threading
import time
import urllib.request
from dataclasses import dataclass
from itertools import count
from typing import Any

import psycopg

from benchmarks.soak import functions
from runyard import Event, send
from runyard.errors import RunyardError
from runyard.settings import settings

_EVERY_SECONDS = 0.5
_TENANTS = 5
_BY_HTTP = 0.7


@dataclass
class Outgoing:
    """Events to send together at a given time, and after a given event has been accepted."""

    events: list[dict[str, Any]]
    due: float
    by_http: bool
    behind: str | None = None


class Load(threading.Thread):
    """Sends events until it is stopped.

    `accepted` has the key and name of each accepted event, with the time of that.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(name="soak-load", daemon=True)
        self.accepted: dict[str, tuple[str, float]] = {}
        self.refused = 0
        self._random = random.Random(seed)
        self._numbers = count(1)
        self._outgoing: list[Outgoing] = []
        self._ending = threading.Event()

    def run(self) -> None:
        """Send the events that are due, and add more."""
        while not self._ending.is_set():
            self._outgoing += [
                Outgoing(events, time.time(), self._random.random() < _BY_HTTP)
                for events in self._more()
            ]
            self._send_due()
            time.sleep(_EVERY_SECONDS)

    def stop(self) -> None:
        """Add no more events; send the rest until all are accepted."""
        self._ending.set()
        self.join()
        deadline = time.monotonic() + 120
        while self._outgoing and time.monotonic() < deadline:
            self._send_due()
            time.sleep(_EVERY_SECONDS)
        assert not self._outgoing, f"{len(self._outgoing)} requests are not accepted"

    def _key(self) -> str:
        return f"k{next(self._numbers)}"

    def _event(self, name: str, **data: Any) -> dict[str, Any]:
        key = self._key()
        return {"id": key, "name": name, "data": {"key": key, **data}}

    def _more(self) -> list[list[dict[str, Any]]]:
        """Half a second's events: several quick ones in an array, and at random others.

        Often one with a limit, now and then a slow one or one that waits.
        """
        made = [[self._event(functions.QUICK) for _ in range(self._random.randint(1, 12))]]
        if self._random.random() < 0.6:
            made.append([self._event(functions.LIMITED, tenant=self._random.randrange(_TENANTS))])
        if self._random.random() < 0.2:
            made.append([self._event(functions.SLOW, seconds=self._random.uniform(0.5, 4))])
        if self._random.random() < 0.2:
            waiting = self._event(functions.SUSPENDED, nap=self._random.uniform(0.5, 5))
            made.append([waiting])
            answer = {
                "id": f"{waiting['id']}-answer",
                "name": functions.ANSWERED,
                "data": {"key": waiting["id"]},
            }
            self._outgoing.append(
                Outgoing(
                    [answer],
                    time.time() + self._random.uniform(1, 9),
                    by_http=True,
                    behind=waiting["id"],
                )
            )
        return made

    def _send_due(self) -> None:
        later = []
        for one in self._outgoing:
            is_due = one.due <= time.time() and (one.behind is None or one.behind in self.accepted)
            if not is_due or not self._sent(one):
                later.append(one)
        self._outgoing = later

    def _sent(self, one: Outgoing) -> bool:
        try:
            if one.by_http:
                _post(one.events)
            else:
                send([Event(event["name"], event["data"], id=event["id"]) for event in one.events])
        except (OSError, RunyardError, psycopg.Error):
            self.refused += 1
            return False
        self.accepted |= {event["id"]: (event["name"], time.time()) for event in one.events}
        return True


def _post(events: list[dict[str, Any]]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{settings().port}/e/soak",
        json.dumps(events).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()
