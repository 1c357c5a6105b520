"""The ids that runs have in Inngest's protocol: ULIDs that say which invocation is meant.

The first 48 bits are the time at which the invocation was created, in milliseconds, and the last 64
its number. `runyard.run_id_v1` makes the same in SQL.
"""

import re
from datetime import datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_ULID = re.compile(f"[0-7][{_ALPHABET}]{{25}}")
_NUMBER_BITS, _TIME_SHIFT = 64, 80


def run_id(invocation: int, created_at: datetime) -> str:
    """Return the id of an invocation's run."""
    number = _millis(created_at) << _TIME_SHIFT | invocation
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def invocation_of(id: str) -> int | None:
    """Return the number of the invocation that a run's id means; None if it is no such id."""
    if not _ULID.fullmatch(id):
        return None
    number = 0
    for character in id:
        number = number << 5 | _VALUES[character]
    low = number & ((1 << _TIME_SHIFT) - 1)
    return low if low < 1 << (_NUMBER_BITS - 1) else None


def _millis(at: datetime) -> int:
    return int(at.timestamp()) * 1000 + at.microsecond // 1000
