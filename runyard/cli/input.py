"""What the commands read: files and standard input as other programs write them, in any encoding of Unicode.

PowerShell writes UTF-16, or UTF-8 with a byte order mark; both are read. Whatever cannot be read is an `InvalidInput`, which says what to do.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

from runyard.errors import InvalidInput

MOST_BYTES = 32 * 1024 * 1024
_LONGEST_LINE = 64 * 1024


def json_of_file(path: Path) -> Any:
    """The JSON of a file."""
    try:
        with path.open("rb") as file:
            # One byte more than may be, whatever is said of its size: it may be a pipe or a device.
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder; give a file") from None
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(raw) > MOST_BYTES:
        raise InvalidInput(
            f"{path} has more than {MOST_BYTES // 1024**2} MiB; send its events in several files"
        )
    return json_of_text(_decoded(raw, str(path)), str(path))


def json_of_text(text: str, where: str) -> Any:
    """The JSON of a text; errors call it `where`."""
    if not text.strip():
        raise InvalidInput(
            f"{where} is empty; give an event's data, a JSON object, or several in an array"
        )
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{where}, line {error.lineno}, column {error.colno}, is not JSON: {error.msg}"
        ) from None
    except RecursionError:
        raise InvalidInput(
            f"{where} is not JSON that can be taken: it is nested too deep"
        ) from None
    except ValueError as error:
        raise InvalidInput(f"{where} is not JSON that can be taken: {error}") from None


def first_line(stream: BinaryIO) -> str:
    """The first line of standard input, without spaces around it."""
    raw = stream.readline(_LONGEST_LINE)
    # Of a line break in UTF-16, the low byte comes first and ends the line.
    whole = raw.removesuffix(b"\n") if raw.startswith(b"\xff\xfe") else raw
    return _decoded(whole, "standard input").strip()


def _decoded(raw: bytes, where: str) -> str:
    """The text of bytes: UTF-8, UTF-16 or UTF-32, by the byte order mark or by what JSON begins with."""
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where} is not text in UTF-8, UTF-16 or UTF-32 (byte {error.start + 1}): save it as UTF-8"
        ) from None
