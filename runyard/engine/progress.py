"""What steps report and write, stored for those who watch the invocation.

A report is stored at once. What a step writes is collected for a moment and stored by a thread of
the process; the rest of it is stored before the step's result.
"""

import math
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from runyard.engine.background_saver import BackgroundSaver
from runyard.errors import DatabaseUnavailable
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.text.error_text import fit
from runyard.text.redaction import redactor
from runyard.text.safe_cuts import cut_before
from runyard.text.storable import storable

# Nobody could read more frequent messages, and each is an INSERT.
_MIN_INTERVAL = 0.1
_MAX_TEXT = 500
# Characters that one attempt of a step may write.
MAX_WRITTEN = 200_000
_MAX_WORD = 500
_saver = BackgroundSaver("runyard-progress", "the texts of steps", 0.25)


@dataclass
class _Watched:
    """What an invocation's step has reported last, and what it has written.

    Attributes
    ----------
    room
        How many more characters the step may write.
    position
        How many characters are stored.
    unsaved
        What is written and not stored.
    kept_back
        Whether `unsaved` begins with what was kept back when the rest was stored.
    """

    percent: float = 0.0
    text: str = ""
    reported_at: float = -1.0
    room: int = MAX_WRITTEN
    position: int = 0
    unsaved: str = ""
    kept_back: bool = False
    pieces: list[str] = field(default_factory=list[str])

    def take(self, *, all_of_it: bool) -> str:
        """Return what is to be stored next.

        The last word is kept back once, as its end may come in the next piece: a secret that is
        stored in two halves is not recognised. Of a long word the end is kept back.
        """
        self.unsaved += "".join(self.pieces)
        self.pieces.clear()
        if all_of_it or not self.unsaved or self.unsaved[-1].isspace():
            return self.unsaved
        word = self.unsaved.rsplit(None, 1)[-1]
        if len(word) > _MAX_WORD:
            return self.unsaved[: cut_before(self.unsaved, len(self.unsaved) - _MAX_WORD)]
        if self.kept_back and word == self.unsaved:
            return self.unsaved
        return self.unsaved[: -len(word)]

    def note_stored(self, taken: str, stored: str) -> None:
        """Note that what was taken has been stored, and as which text."""
        self.unsaved = self.unsaved[len(taken) :]
        self.kept_back = bool(self.unsaved)
        self.position += len(stored)


class Reporter:
    """Stores the progress of one step in a run."""

    def __init__(self, batch_id: str, run_id: str, step: str) -> None:
        self._batch = batch_id
        self._run = run_id
        self._step = step
        self._watched: dict[int, _Watched] = {}
        # Held while a text is added or taken, and while texts are stored in their order.
        self._adding = threading.Lock()
        self._saving = threading.Lock()

    def report(self, invocation: int, percent: float, text: str) -> None:
        """Store a message, unless the lease is lost. A database that is away fails no step."""
        now = time.monotonic()
        watched = self._watched.setdefault(invocation, _Watched())
        bounded = min(max(float(percent), 0.0), 100.0) if not math.isnan(percent) else 0.0
        if bounded < 100 and now - watched.reported_at < _MIN_INTERVAL:
            return
        watched.reported_at = now
        watched.percent, watched.text = bounded, fit(text.replace("\0", ""), _MAX_TEXT)
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
            )

    def write(self, invocation: int, text: str) -> None:
        """Add to the text that the step writes for an invocation. It is stored soon after."""
        watched = self._watched.setdefault(invocation, _Watched())
        with self._adding:
            piece = str(text)[: watched.room]
            if not piece:
                return
            watched.room -= len(piece)
            watched.pieces.append(piece)
        _saver.add(self)

    def save(self, invocations: Collection[int] | None = None) -> None:
        """Store all that was written for these invocations, or for all; a failure is ignored."""
        with suppress(psycopg.Error, DatabaseUnavailable):
            self._save(list(self._watched) if invocations is None else invocations, all_of_it=True)

    def save_changes(self) -> None:
        """Store what was written, apart from the last words; raises what the database does."""
        self._save(list(self._watched), all_of_it=False)
        if any(watched.unsaved for watched in list(self._watched.values())):
            _saver.add(self)

    def _save(self, invocations: Collection[int], *, all_of_it: bool) -> None:
        with self._saving:
            taken: dict[int, str] = {}
            with self._adding:
                for invocation in invocations:
                    watched = self._watched.get(invocation)
                    if watched is not None:
                        taken[invocation] = watched.take(all_of_it=all_of_it)
            clean = redactor()
            stored = {each: storable(clean(text)) for each, text in taken.items() if text}
            if stored:
                self._store(stored)
            for invocation, text in taken.items():
                self._watched[invocation].note_stored(text, stored.get(invocation, ""))

    def _store(self, texts: dict[int, str]) -> None:
        watched = [self._watched[invocation] for invocation in texts]
        with database.connection() as connection:
            fetch_all(
                connection,
                "record_written",
                batch=self._batch,
                run=self._run,
                step=self._step,
                invocations=list(texts),
                percents=[each.percent for each in watched],
                texts=[each.text for each in watched],
                written=list(texts.values()),
                positions=[each.position for each in watched],
            )
