"""Detects images that are something else as well, by the structure of the file.

An image ends where its format says. Text inside it (a comment, EXIF, XMP) is allowed, whatever it
contains. A page or a script after its end is not, nor are the marks of a ZIP archive or a PDF where
readers of these formats look for them.
"""

import mmap
import re
from pathlib import Path

# The final record of a ZIP archive is within this many bytes (PKWARE's APPNOTE).
_TAIL = 65_557
_HEADS = (b"%pdf-", b"<?php", b"<script", b"<html", b"<!doctype")
# After an FF: what ends a scan of a JPEG. Zeros are stuffing, D0 to D7 restart, more FFs pad.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def is_something_else(file: Path, kind: str) -> bool:
    """Whether an image of a kind (Pillow's name) is also a ZIP archive, PDF, page or script."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tail = data[max(0, len(data) - _TAIL) :]
        end = min(_end(data, kind), len(data))
        behind = (data[end : end + _TAIL] + data[max(end, len(data) - _TAIL) :]).lower()
        is_pdf = b"%PDF-" in data[:1024] and b"startxref" in tail[-1024:]
    return is_pdf or _ends_as_zip(tail) or any(head in behind for head in _HEADS)


def _ends_as_zip(tail: bytes) -> bool:
    """Whether the file ends with the final record of a ZIP archive.

    Its four bytes may occur by chance; with a matching length they do not.
    """
    at = tail.rfind(b"PK\x05\x06")
    return at >= 0 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)


def _end(data: mmap.mmap, kind: str) -> int:
    """Where an image ends. TIFF has no end: its parts may be anywhere."""
    if kind in ("JPEG", "MPO"):
        return _jpeg_end(data)
    if kind == "PNG":
        return _png_end(data)
    if kind == "GIF":
        return _gif_end(data)
    if kind == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little")
    if kind == "BMP":
        return int.from_bytes(data[2:6], "little") or len(data)
    return _boxes_end(data) if kind in ("AVIF", "HEIF") else len(data)


def _jpeg_end(data: mmap.mmap) -> int:
    """The end of a JPEG, including those right after it: phones store depth or brightness there."""
    at = 0
    while data[at : at + 2] == b"\xff\xd8":
        at += 2
        while data[at : at + 2] != b"\xff\xd9":
            scan = data[at : at + 2] == b"\xff\xda"
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
            if scan or data[at : at + 1] != b"\xff":
                marker = _MARKER.search(data, at)
                if marker is None:
                    return len(data)
                at = marker.start()
            while data[at + 1 : at + 2] == b"\xff":
                at += 1
        at += 2
    return at


def _png_end(data: mmap.mmap) -> int:
    at = 8
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])
        if kind == b"IEND":
            return at
    return len(data)


def _gif_end(data: mmap.mmap) -> int:
    at = 13 + _colours(data, 10)
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            at += 11 + _colours(data, at + 9)
        elif data[at] == 0x21:
            at += 2
        else:
            return at
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return at + 1


def _colours(data: mmap.mmap, at: int) -> int:
    """The size in bytes of a GIF's colour table, according to its flags."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _boxes_end(data: mmap.mmap) -> int:
    """The end of the last box of ISO's base media format that fits into the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if size == 0:
            return len(data)
        if size < 8 or at + size > len(data):
            break
        at += size
    return at
