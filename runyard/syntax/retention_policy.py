"""How long things are kept, as RUNYARD_RETENTION says it: `30d`, and for functions with another time `30d, send_email=90d, page_view=2d`; `forever` keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from runyard.syntax.durations import seconds

_FOREVER = "forever"
_SHORTEST, _LONGEST = 3600, 3650 * 86_400


@dataclass(frozen=True)
class Retention:
    """How long things are kept; None: forever."""

    general: timedelta | None
    functions: Mapping[str, timedelta | None] = field(default_factory=dict[str, timedelta | None])

    @classmethod
    def parse(cls, text: str) -> "Retention":
        """Read RUNYARD_RETENTION; raises `InvalidOption`."""
        general: timedelta | None = None
        functions: dict[str, timedelta | None] = {}
        for part in (part.strip() for part in text.split(",")):
            name, equals, value = part.rpartition("=")
            length = (
                None
                if value.strip() == _FOREVER
                else timedelta(
                    seconds=seconds(
                        value.strip(), "RUNYARD_RETENTION", least=_SHORTEST, most=_LONGEST
                    )
                )
            )
            if equals:
                functions[name.strip()] = length
            else:
                general = length
        return cls(general, functions)

    def all_before(self, now: datetime) -> datetime | None:
        """The time before which nothing is kept, of no function; None where something stays forever."""
        lengths = [
            length for length in (self.general, *self.functions.values()) if length is not None
        ]
        return now - max(lengths) if len(lengths) == 1 + len(self.functions) else None

    def before(self, now: datetime, function: str | None = None) -> datetime | None:
        """The time before which things of a function (or events) go; None when they stay."""
        length = (
            self.functions.get(function, self.general) if function is not None else self.general
        )
        return None if length is None else now - length
