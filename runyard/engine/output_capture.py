"""What a Dagster run prints, kept in the database for the Dagster UI of any host.

While a run works its output goes to files of its process's host. What they hold is stored when the
run ends, and every few seconds while it works: one thread of the process looks at the files then.
A run that prints nothing costs no statement.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import UnsupportedOperation
from typing import TextIO

from runyard.engine import run_output
from runyard.engine.background_saver import BackgroundSaver
from runyard.engine.output_files import spool_of
from runyard.engine.output_spool import Spool
from runyard.engine.run_output import ERR, OUT, LogKey, text_of_key
from runyard.settings import settings
from runyard.text.error_text import fit
from runyard.text.line_buffering import line_buffered

_INTERVAL_SECONDS = 3.0
# A run of a day is looked at less often than one of a minute.
_SHARE_OF_AGE = 0.01
_LONGEST_INTERVAL = 60.0
_log = logging.getLogger("runyard.run_output")
_saver = BackgroundSaver("runyard-run-output", "the outputs of runs", _INTERVAL_SECONDS)


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
        self._is_over = False

    @property
    def _is_due(self) -> bool:
        """Whether it is time to look at the files again."""
        now = time.monotonic()
        wait = min(max(_INTERVAL_SECONDS, (now - self._began) * _SHARE_OF_AGE), _LONGEST_INTERVAL)
        return now - self._looked >= wait

    def save_changes(self) -> None:
        """Store what has been printed since the last time, if that is due, and have it done again.

        Raises what the database does.
        """
        with self._saving:
            if self._is_over:  # its files are closed
                return
            if self._is_due:
                self._looked = time.monotonic()
                _flush_streams()
                self._save(ended=False)
        _saver.add(self)

    def save_rest(self) -> bool:
        """Store all that is left, as nothing more is printed; return whether that is done."""
        with self._saving:
            self._is_over = True
            try:
                self._save(ended=True)
            except Exception as error:  # fails no run
                _log.warning("the output of %s is not saved: %s", self._key, fit(str(error)))
                return False
            return True

    def _save(self, *, ended: bool) -> None:
        pieces = {
            stream: piece
            for stream, spool in self.spools.items()
            if (piece := spool.next_piece(ended=ended)) is not None
        }
        if not pieces:
            return
        run_output.add(self._key, pieces)
        for stream, piece in pieces.items():
            self.spools[stream].advance(piece)


@contextmanager
def _output(key: LogKey, streams: Sequence[str], limit: int) -> Iterator[_Output]:
    """Files for what is printed under a key, which are stored and deleted in the end."""
    process = os.getpid()
    with ExitStack() as stack:
        spools = {stream: stack.enter_context(spool_of(key, stream, limit)) for stream in streams}
        output = _Output(text_of_key(key), spools)
        _saver.add(output)
        try:
            yield output
        finally:
            # A child process of a step may end here, too.
            if os.getpid() == process and output.save_rest():
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
        with line_buffered(stream):
            yield
    finally:
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(before, number)
        os.close(before)


def _flush_streams() -> None:
    """Let lines that were printed be written: Python keeps some kilobytes of them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
