"""A file that takes what a process prints, and the pieces of it that are to be stored.

Of a long output its first and its last half are stored, as much as the limit allows, with a line
that tells how much is left out between them. A piece ends with a line where it can. A line that is
too long for that is cut where it leaves characters whole, and secrets, which are redacted.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runyard.text.redaction import redact
from runyard.text.safe_cuts import MARGIN, cut_after, cut_before

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
            content = self._head(size)
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
        head = self._head(size)
        begin = max(self._read, size - half - MARGIN)
        tail = _from_next_line(self._bytes(begin, size), size - half - begin)
        left_out = size - self._read - len(head) - len(tail)
        return b"%b\n[%d bytes are left out here]\n%b" % (head, left_out, tail)

    def _head(self, size: int) -> bytes:
        """What comes next of the first half."""
        half = self._limit // 2
        text = self._bytes(self._read, min(size, half + MARGIN))
        return _whole_lines(text, max(0, half - self._read))

    def _bytes(self, start: int, end: int) -> bytes:
        return os.pread(self.descriptor, max(0, end - start), start)


def _lock(descriptor: int) -> bool:
    """Lock a file until all its descriptors are closed; return False if it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _whole_lines(text: bytes, most: int) -> bytes:
    """The beginning of a text, up to the end of a line, be it one that a terminal would write over.

    It has `most` bytes at most. A line that is too long to be waited for is cut, though not in its
    last characters: a secret may begin there.
    """
    end = max(text.rfind(b"\n", 0, most), text.rfind(b"\r", 0, most)) + 1
    if end or len(text) < min(_LONGEST_LINE, most + MARGIN):
        return text[:end]
    return text[: _place(text, min(most, len(text) - MARGIN), cut_before)]


def _from_next_line(text: bytes, start: int) -> bytes:
    """A text from the first line on that begins behind `start`, or, if that is far, from there."""
    end = text.find(b"\n", start, start + _LONGEST_LINE) + 1
    return text[end if 0 < end < len(text) else _place(text, start, cut_after) :]


def _place(text: bytes, at: int, cut: Callable[[str, int], int]) -> int:
    """The place near `at` at which a text can be cut: between two characters, and in no secret."""
    if at >= len(text):
        return len(text)
    start = min(range(max(0, at - 3), at + 1), key=lambda i: (text[i] & 0xC0 == 0x80, -i))
    begin = max(0, start - 2 * MARGIN)
    before, after = (
        part.decode("utf-8", "surrogateescape")
        for part in (text[begin:start], text[start : start + 2 * MARGIN])
    )
    place = cut(before + after, len(before))
    return begin + len((before + after)[:place].encode("utf-8", "surrogateescape"))


def _redacted(content: bytes) -> bytes:
    """A text without secrets, whatever its encoding."""
    text = content.decode("utf-8", "surrogateescape")
    return redact(text).encode("utf-8", "surrogateescape")
