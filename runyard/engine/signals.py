"""Signals: sent by name to the one step that waits for it.

Unlike an event, a signal is not kept: it reaches a step that waits for it now, or nobody.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runyard.errors import InvalidOption
from runyard.store import database
from runyard.store.queries import fetch_one
from runyard.text.storable import is_storable

# Names are looked up in an index, whose entries are bounded.
MAX_SIGNAL_BYTES = 1_024


def is_signal(name: str) -> bool:
    """Return whether this can be the name of a signal."""
    return is_storable(name) and 1 <= len(name.encode()) <= MAX_SIGNAL_BYTES


def is_taken(result: Mapping[str, Any]) -> bool:
    """Return whether a wait is over because another one waits for its signal."""
    return "is_taken" in result


def send_signal(name: str, data: object) -> tuple[int, datetime] | None:
    """Send a signal to the step that waits for it.

    Returns the invocation that it has resumed, with the time of its creation; None if nobody waits
    for the signal. Raises `InvalidOption` for a name that no signal can have.
    """
    if not is_signal(name):
        raise InvalidOption(f"signal: 1 to {MAX_SIGNAL_BYTES:,} bytes of text without NUL")
    with database.connection() as connection:
        row = fetch_one(connection, "send_signal", signal=name, data=json.dumps(data))
    return None if row is None else (row["id"], row["created_at"])
