"""The files of a host that take what runs print there, and those whose process is gone.

A process that is killed leaves its files behind. The kernel has released their locks, so another
process of the host stores what is left of them.
"""

import logging
import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from runyard.engine import run_output
from runyard.engine.output_spool import Spool
from runyard.engine.run_output import LogKey, text_of_key
from runyard.errors import DatabaseUnavailable
from runyard.settings import settings
from runyard.store.data_folder import make_folder
from runyard.text.error_text import fit

# A file is created some moments before it is locked.
_LOCKED_SECONDS = 10.0
_LONGEST_NAME = 240
_log = logging.getLogger("runyard.run_output")
# The files that could not be stored, of which this process has told.
_told: set[str] = set()


def spool_of(key: LogKey, stream: str, limit: int) -> Spool:
    """A new file for what is printed to a stream under a key."""
    folder = _folder()
    if not folder.is_dir():
        make_folder(folder)
    return Spool(folder / _file_name(key, stream), limit)


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


def _save_left_behind(path: Path) -> bool:
    """Store a file whose process is gone; return False if it is not."""
    limit = settings().run_output_bytes
    with Spool(path, limit) as spool:
        if not spool.is_ours:
            return False
        key, stream = _of_file(path.name)
        piece = spool.next_piece(ended=True)
        if key is not None and piece is not None and limit:
            run_output.replace(key, stream, piece)
        spool.delete()
    return True


def _tell_once(path: str, error: Exception) -> None:
    """Log that a file is not stored: it is looked at again every few seconds."""
    if path not in _told:
        _told.add(path)
        reason = fit(f"{type(error).__name__}: {error}")
        _log.warning("%s is not stored: %s", fit(path), reason)


def _folder() -> Path:
    return settings().data / "output"


def _file_name(key: LogKey, stream: str) -> str:
    name = text_of_key(key).replace("/", "+")
    if len(name) > _LONGEST_NAME:
        name = f"+{sha256(name.encode()).hexdigest()}"
    return f"{name}.{stream}"


def _of_file(name: str) -> tuple[str | None, str]:
    """The key and the stream of a file; no key if it was too long for a name."""
    base, _, stream = name.rpartition(".")
    return None if base.startswith("+") else base.replace("+", "/"), stream
