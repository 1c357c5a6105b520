"""A file that takes what a process prints, and the pieces of it that are to be stored.

Of a long output its first and its last half are stored, as much as the limit allows, with a line
that tells how much is left out between them. A piece ends with a line where it can: that leaves
characters whole, and secrets, which are redacted.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runyard.text.redaction import redact

# A line that is not ended is waited for up to this size.
_LONGEST_LINE = 64 * 1024


@dataclass(frozen=True)
class Piece:
    """What is to be stored next.

    Attributes
    ----------
    start
        Where it begins in what is stored, in bytes.
    content
        The bytes, without secrets.
    end
        How far the file has been read with it.
    """

    start: int
    content: bytes
    end: int


class Spool:
    """A file of output, locked for as long as its process may write to it.

    Parameters
    ----------
    path
        Where it is, or is to be.
    limit
        How many bytes of it may be stored.

    Attributes
    ----------
    descriptor
        The open file, to which is appended.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._read = 0
        self._stored = 0
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.is_ours = _lock(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def next_piece(self, *, ended: bool = False) -> Piece | None:
        """The next piece to store, if there is any; `ended` says that nothing more is printed."""
        size = os.fstat(self.descriptor).st_size
        if size <= self._read:
            return None
        if ended:
            content, end = self._rest(size), size
        else:
            content = _whole_lines(self._bytes(self._read, min(size, self._limit // 2)))
            end = self._read + len(content)
        return Piece(self._stored, _redacted(content), end) if content else None

    def advance(self, piece: Piece) -> None:
        """Go on behind a piece, which has been stored."""
        self._read = piece.end
        self._stored += len(piece.content)

    def delete(self) -> None:
        """Delete the file: all of it that is kept has been stored."""
        self._path.unlink(missing_ok=True)

    def _rest(self, size: int) -> bytes:
        if size <= self._limit:
            return self._bytes(self._read, size)
        half = self._limit // 2
        head = _whole_lines(self._bytes(self._read, half))
        tail = _from_next_line(self._bytes(size - half, size))
        left_out = size - self._read - len(head) - len(tail)
        return b"%b\n[%d bytes are left out here]\n%b" % (head, left_out, tail)

    def _bytes(self, start: int, end: int) -> bytes:
        return os.pread(self.descriptor, max(0, end - start), start)


def _lock(descriptor: int) -> bool:
    """Lock a file until all its descriptors are closed; return False if it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _whole_lines(text: bytes) -> bytes:
    """A text up to the end of its last line, be it one that a terminal would write over.

    A line that is too long to be waited for is cut after its last whole character.
    """
    end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
    if end or len(text) < _LONGEST_LINE:
        return text[:end]
    last = max(range(-4, 0), key=lambda at: (text[at] & 0xC0 != 0x80, at))
    return text[:last]


def _from_next_line(text: bytes) -> bytes:
    """A text from its second line on, or all of it if that is too far."""
    end = text.find(b"\n", 0, _LONGEST_LINE) + 1
    return text[end:] if end < len(text) else text


def _redacted(content: bytes) -> bytes:
    """A text without secrets, whatever its encoding."""
    text = content.decode("utf-8", "surrogateescape")
    return redact(text).encode("utf-8", "surrogateescape")
