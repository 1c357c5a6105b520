"""What steps report and write, stored at once for those who watch the invocation."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field

from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.error_text import fit
from runyard.text.storable import storable

# Nobody could read more frequent messages, and each is an INSERT.
_MIN_INTERVAL = 0.1
_MAX_TEXT = 500
_MIN_WRITE_INTERVAL = 0.25
# Characters that one attempt of a step may write.
MAX_WRITTEN = 200_000


@dataclass
class _Watched:
    """What an invocation's step has reported last, and what it has written."""

    percent: float = 0.0
    text: str = ""
    reported_at: float = -1.0
    position: int = 0
    unsaved: list[str] = field(default_factory=list[str])
    written_at: float = -1.0


class Reporter:
    """Stores the progress of one step in a run."""

    def __init__(self, batch_id: str, run_id: str, step: str) -> None:
        self._batch = batch_id
        self._run = run_id
        self._step = step
        self._watched: dict[int, _Watched] = {}

    def report(self, invocation: int, percent: float, text: str) -> None:
        """Store a message, unless the lease is lost. A database that is away fails no step."""
        now = time.monotonic()
        watched = self._watched.setdefault(invocation, _Watched())
        bounded = min(max(float(percent), 0.0), 100.0) if not math.isnan(percent) else 0.0
        if bounded < 100 and now - watched.reported_at < _MIN_INTERVAL:
            return
        watched.reported_at = now
        watched.percent, watched.text = bounded, fit(text.replace("\0", ""), _MAX_TEXT)
        self._store(invocation, watched)

    def write(self, invocation: int, text: str) -> None:
        """Store a piece of a text with those that came shortly before, as `report` does."""
        watched = self._watched.setdefault(invocation, _Watched())
        room = MAX_WRITTEN - watched.position - sum(map(len, watched.unsaved))
        if piece := storable(text[: max(0, room)]):
            watched.unsaved.append(piece)
        now = time.monotonic()
        if not watched.unsaved or now - watched.written_at < _MIN_WRITE_INTERVAL:
            return
        watched.written_at = now
        written = "".join(watched.unsaved)
        watched.unsaved.clear()
        self._store(invocation, watched, written)
        watched.position += len(written)

    def _store(self, invocation: int, watched: _Watched, written: str | None = None) -> None:
        with suppress(DatabaseUnavailable), database.connection() as connection:
            fetch_all(
                connection,
                "report_progress",
                batch=self._batch,
                run=self._run,
                invocation=invocation,
                step=self._step,
                percent=watched.percent,
                text=watched.text,
                written=written,
                position=None if written is None else watched.position,
            )
