"""What a Dagster run prints, kept in the database for the Dagster UI of any host.

While a run works its output goes to files of its process's host. What they hold is stored when the
run ends, and every few seconds while it works: one thread of the process looks at the files then.
A run that prints nothing costs no statement.

A process that is killed leaves its files behind. The kernel has released their locks, so another
process of the host stores what is left of them (`save_left_behind`).
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from io import UnsupportedOperation
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, unquote

import psycopg

from runyard.engine.output_spool import Piece, Spool
from runyard.errors import DatabaseUnavailable
from runyard.settings import settings
from runyard.store import database
from runyard.store.data_folder import make_folder
from runyard.store.queries import Connection, fetch_all, fetch_one
from runyard.text.error_text import fit

OUT, ERR = "out", "err"
LogKey = Sequence[str]

_INTERVAL_SECONDS = 3.0
# A run of a day is looked at less often than one of a minute.
_SHARE_OF_AGE = 0.01
_LONGEST_INTERVAL = 60.0
# A file is created some moments before it is locked.
_LOCKED_SECONDS = 10.0
_LONGEST_NAME = 240
_CHUNK = 1_000
_PIECE = 4 * 1024 * 1024
_LAST_PLACE = 2**31 - 1
_FAILURES = (psycopg.Error, DatabaseUnavailable, OSError)
_log = logging.getLogger("runyard.run_output")
# The files that could not be stored, of which this process has told.
_told: set[str] = set()


@contextmanager
def capturing(key: LogKey) -> Iterator[None]:
    """Keep what this process and its children print to standard output and error.

    With a limit of 0 the output goes where it always does.
    """
    limit = settings().run_output_bytes
    if not limit:
        yield
        return
    with _output(key, (OUT, ERR), limit) as output, ExitStack() as stack:
        for stream, spool in zip((sys.stdout, sys.stderr), output.spools.values(), strict=True):
            stack.enter_context(_into(stream, spool.descriptor))
        yield


@contextmanager
def stream_of(key: LogKey, stream: str) -> Iterator[TextIO | None]:
    """Something to write to that is kept under a key; None with a limit of 0."""
    limit = settings().run_output_bytes
    if not limit:
        yield None
        return
    with (
        _output(key, (stream,), limit) as output,
        open(output.spools[stream].descriptor, "a", encoding="utf-8", closefd=False) as file,
    ):
        yield file


def read(
    key: LogKey,
    out: int = 0,
    err: int = 0,
    *,
    streams: Sequence[str] = (OUT, ERR),
    most: int | None = None,
) -> Mapping[str, bytes]:
    """What was printed under a key: of these streams, from these places on; none of an empty one.

    Of each stream it is no more than `most` bytes.
    """
    places = {OUT: out, ERR: err}
    with database.connection() as connection:
        rows = fetch_all(
            connection,
            "run_output",
            key=_text(key),
            streams=list(streams),
            places=[min(max(places[stream], 0), _LAST_PLACE) for stream in streams],
            most=most if most is None else min(max(most, 0), _LAST_PLACE),
        )
    contents: dict[str, list[bytes]] = {}
    for row in rows:
        contents.setdefault(row["stream"], []).append(row["content"])
    return {stream: b"".join(pieces) for stream, pieces in contents.items()}


def read_pieces(key: LogKey, stream: str) -> Iterator[bytes]:
    """All that a stream has under a key, in pieces of a bounded size."""
    place = 0
    while piece := read(key, place, place, streams=[stream], most=_PIECE).get(stream):
        yield piece
        place += len(piece)


def has_some(key: LogKey, stream: str) -> bool:
    """Whether a stream has something under a key."""
    with database.connection() as connection:
        row = fetch_one(connection, "run_output_exists", key=_text(key), stream=stream)
    return row is not None and bool(row["has_some"])


def keys_below(prefix: LogKey, stream: str) -> Sequence[LogKey]:
    """The keys of one more part than a prefix under which a stream has something."""
    with database.connection() as connection:
        rows = fetch_all(connection, "run_output_keys", prefix=_text(prefix), stream=stream)
    keys = [[unquote(part) for part in row["key"].split("/")] for row in rows]
    return [key for key in keys if len(key) == len(prefix) + 1]


def delete(key: LogKey) -> None:
    """Delete what was printed under a key."""
    with database.connection() as connection:
        _delete(connection, _text(key))


def delete_below(prefixes: Collection[LogKey]) -> None:
    """Delete what was printed under all keys that begin with one of these."""
    with database.connection() as connection:
        fetch_all(connection, "delete_output_below", prefixes=[_text(each) for each in prefixes])


def delete_before(before: datetime) -> int:
    """Delete some of what was printed before a time, the oldest first; return how many pieces."""
    with database.connection() as connection:
        return len(fetch_all(connection, "delete_old_output", before=before, limit=_CHUNK))


def save_left_behind() -> int:
    """Store the files of processes that are gone, and delete them; return how many there were.

    A file that cannot be stored is left where it is. Raises `DatabaseUnavailable`.
    """
    saved = 0
    with suppress(FileNotFoundError), os.scandir(_folder()) as files:
        before = time.time() - _LOCKED_SECONDS
        for file in files:
            try:
                if file.is_file(follow_symlinks=False) and file.stat().st_mtime < before:
                    saved += _save_left_behind(Path(file.path))
            except FileNotFoundError:  # another process was faster
                continue
            except DatabaseUnavailable:
                raise
            except Exception as error:
                _tell_once(file.path, error)
    return saved


class _Output:
    """What is printed under a key, in this process.

    Parameters
    ----------
    key
        The key, as the database has it.
    spools
        The files, by stream.
    """

    def __init__(self, key: str, spools: Mapping[str, Spool]) -> None:
        self.spools = spools
        self._key = key
        self._began = self._looked = time.monotonic()
        self._saving = threading.Lock()
        self._is_failing = self._is_over = False

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the files again."""
        now = time.monotonic()
        wait = min(max(_INTERVAL_SECONDS, (now - self._began) * _SHARE_OF_AGE), _LONGEST_INTERVAL)
        return now - self._looked >= wait

    def save(self, *, ended: bool = False) -> bool:
        """Store what has been printed since the last call; return whether that is done."""
        with self._saving:
            if self._is_over:  # its files are closed
                return True
            self._is_over = ended
            self._looked = time.monotonic()
            try:
                self._save(ended)
            except _FAILURES as error:
                if ended or not self._is_failing:
                    _log.warning("the output of %s is not saved: %s", self._key, fit(str(error)))
                self._is_failing = True
                return False
            self._is_failing = False
            return True

    def _save(self, ended: bool) -> None:
        pieces = {
            stream: piece
            for stream, spool in self.spools.items()
            if (piece := spool.next_piece(ended=ended)) is not None
        }
        if not pieces:
            return
        with database.connection() as connection:
            _insert(connection, self._key, pieces)
        for stream, piece in pieces.items():
            self.spools[stream].advance(piece)


@contextmanager
def _output(key: LogKey, streams: Sequence[str], limit: int) -> Iterator[_Output]:
    """Files for what is printed under a key, which are stored and deleted in the end."""
    folder, process = _folder(), os.getpid()
    if not folder.is_dir():
        make_folder(folder)
    with ExitStack() as stack:
        spools = {
            stream: stack.enter_context(Spool(folder / _file_name(key, stream), limit))
            for stream in streams
        }
        output = _Output(_text(key), spools)
        _saver.add(output)
        try:
            yield output
        finally:
            # A child process of a step may end here, too.
            if os.getpid() == process:
                _saver.remove(output)
                if output.save(ended=True):
                    for spool in spools.values():
                        spool.delete()


@contextmanager
def _into(stream: TextIO, descriptor: int) -> Iterator[None]:
    """Let what this process and its children write to a stream go to a file."""
    try:
        number = stream.fileno()
    except (UnsupportedOperation, AttributeError, ValueError):
        # A stream of a test, or none: there is no descriptor.
        yield
        return
    stream.flush()
    before = os.dup(number)
    os.dup2(descriptor, number)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(before, number)
        os.close(before)


class _Saver:
    """The thread that stores what runs have printed while they work.

    It starts with the first run, and sleeps while there is none.
    """

    def __init__(self) -> None:
        self._outputs: set[_Output] = set()
        self._lock = threading.Lock()
        self._has_some = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, output: _Output) -> None:
        with self._lock:
            self._outputs.add(output)
            self._has_some.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="runyard-run-output", daemon=True
                )
                self._thread.start()

    def remove(self, output: _Output) -> None:
        with self._lock:
            self._outputs.discard(output)

    def _run(self) -> None:
        pause = threading.Event()
        while self._has_some.wait():
            pause.wait(_INTERVAL_SECONDS)
            with self._lock:
                outputs = [output for output in self._outputs if output.is_due]
                if not self._outputs:
                    self._has_some.clear()
            if outputs:
                _flush_streams()
            for output in outputs:
                output.save()


def _flush_streams() -> None:
    """Let lines that were printed be written: Python keeps some kilobytes of them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _save_left_behind(path: Path) -> bool:
    """Store a file whose process is gone; return False if it is not."""
    limit = settings().run_output_bytes
    with Spool(path, limit) as spool:
        if not spool.is_ours:
            return False
        key, stream = _of_file(path.name)
        piece = spool.next_piece(ended=True)
        if key is not None and piece is not None and limit:
            with database.transaction() as connection:
                _delete(connection, key, stream)
                _insert(connection, key, {stream: piece})
        spool.delete()
    return True


def _tell_once(path: str, error: Exception) -> None:
    """Log that a file is not stored: it is looked at again every few seconds."""
    if path not in _told:
        _told.add(path)
        reason = fit(f"{type(error).__name__}: {error}")
        _log.warning("%s is not stored: %s", fit(path), reason)


def _insert(connection: Connection, key: str, pieces: Mapping[str, Piece]) -> None:
    fetch_all(
        connection,
        "save_run_output",
        key=key,
        streams=list(pieces),
        starts=[piece.start for piece in pieces.values()],
        contents=[piece.content for piece in pieces.values()],
    )


def _delete(connection: Connection, key: str, stream: str | None = None) -> None:
    fetch_all(connection, "delete_run_output", key=key, stream=stream)


def _folder() -> Path:
    return settings().data / "output"


def _parts(key: LogKey) -> list[str]:
    return [quote(part, safe="") for part in key]


def _text(key: LogKey) -> str:
    """A key as the database has it."""
    return "/".join(_parts(key))


def _file_name(key: LogKey, stream: str) -> str:
    name = "+".join(_parts(key))
    if len(name) > _LONGEST_NAME:
        name = f"+{sha256(name.encode()).hexdigest()}"
    return f"{name}.{stream}"


def _of_file(name: str) -> tuple[str | None, str]:
    """The key and the stream of a file; no key if it was too long for a name."""
    base, _, stream = name.rpartition(".")
    return None if base.startswith("+") else base.replace("+", "/"), stream


def _start_anew() -> None:
    """Start a child process without what its parent has in hand."""
    global _saver
    _saver = _Saver()


_saver = _Saver()
os.register_at_fork(after_in_child=_start_anew)
