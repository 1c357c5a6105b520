"""The retention policy in RUNYARD_RETENTION: `30d`, or `30d, send_email=90d, page_view=forever`.

The first duration applies to events and to all functions without one of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from runyard.syntax.durations import seconds

_FOREVER = "forever"
_LEAST, _MOST = 3600, 3650 * 86_400


@dataclass(frozen=True)
class Retention:
    """How long the history is kept, in general and by function; None: forever."""

    general: timedelta | None
    functions: Mapping[str, timedelta | None] = field(default_factory=dict[str, timedelta | None])

    @classmethod
    def parse(cls, text: str) -> "Retention":
        """Parse RUNYARD_RETENTION; raises `InvalidOption`."""
        general: timedelta | None = None
        functions: dict[str, timedelta | None] = {}
        for part in text.split(","):
            name, equals, value = part.strip().rpartition("=")
            length = _parse_length(value.strip())
            if equals:
                functions[name.strip()] = length
            else:
                general = length
        return cls(general, functions)

    def all_before(self, now: datetime) -> datetime | None:
        """Return the time before which nothing at all is kept; None: some stays forever."""
        lengths = [
            length for length in (self.general, *self.functions.values()) if length is not None
        ]
        return now - max(lengths) if len(lengths) == 1 + len(self.functions) else None

    def before(self, now: datetime, function: str | None = None) -> datetime | None:
        """Return the time before which a function's invocations are deleted; None: they stay.

        Without a function: the time before which events are deleted.
        """
        length = self.general
        if function is not None:
            length = self.functions.get(function, self.general)
        return None if length is None else now - length


def _parse_length(text: str) -> timedelta | None:
    if text == _FOREVER:
        return None
    return timedelta(seconds=seconds(text, "RUNYARD_RETENTION", least=_LEAST, most=_MOST))
