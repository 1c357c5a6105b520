"""Reading files and standard input as other programs write them, in any encoding of Unicode.

PowerShell, for one, writes UTF-16, or UTF-8 with a byte order mark. Input that cannot be read
raises `InvalidInput`, which says what to do.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

from runyard.errors import InvalidInput
from runyard.text.error_text import why_not_json

MAX_BYTES = 32 * 1024 * 1024
_MAX_LINE = 64 * 1024


def json_of_file(path: Path) -> Any:
    """The JSON in a file."""
    try:
        with path.open("rb") as file:
            # Do not trust the size that the system reports: this may be a pipe or a device.
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput(f"file not found: {path}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder, not a file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"cannot read {path}: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise InvalidInput(
            f"{path} is larger than {MAX_BYTES // 1024**2} MiB: split it into several files"
        )
    return json_of_text(_decoded(raw, str(path)), str(path))


def json_of_text(text: str, where: str) -> Any:
    """The JSON in a text; `where` names the text in errors."""
    if not text.strip():
        raise InvalidInput(
            f"{where} is empty: expected a JSON object, or an array of objects for several events"
        )
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{where} is not valid JSON (line {error.lineno}, column {error.colno}): {error.msg}"
        ) from None
    except RecursionError:
        raise InvalidInput(f"{where} is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"{where} is not JSON: {why_not_json(error)}") from None


def first_line(stream: BinaryIO) -> str:
    """The first line of standard input, without surrounding whitespace."""
    raw = stream.readline(_MAX_LINE)
    # In little-endian UTF-16 the low byte of a line break comes first, so the line ends within it.
    whole = raw.removesuffix(b"\n") if raw.startswith(b"\xff\xfe") else raw
    return _decoded(whole, "standard input").strip()


def _decoded(raw: bytes, where: str) -> str:
    """Decode UTF-8, UTF-16 or UTF-32, told apart by byte order mark or by how JSON begins."""
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{where} is not UTF-8, UTF-16 or UTF-32 text (byte {error.start + 1}): "
            "save it as UTF-8"
        ) from None
