"""JSON read and written without loss: numbers of any size and precision, no duplicate keys."""

from collections.abc import Iterator
from datetime import date, time
from json import detect_encoding
from typing import Any, BinaryIO
from uuid import UUID

import simplejson

_MOST_LINE = 64 << 20


def read(text: str) -> Any:
    """Parse JSON; raises ValueError for invalid JSON or a duplicate key."""
    try:
        return simplejson.loads(text, use_decimal=True, allow_nan=True, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_bytes(body: bytes, charset: str | None = None) -> Any:
    """Parse a body, in UTF-8, 16 or 32 unless `charset` says otherwise; raises as `read`."""
    try:
        text = body.decode(charset or detect_encoding(body))
    except LookupError:
        raise ValueError(f"its charset {str(charset)[:40]!r} is not known") from None
    return read(text.removeprefix("\ufeff"))


def write(value: Any) -> str:
    """Serialise a value; raises ValueError for what JSON cannot represent."""
    try:
        return str(
            simplejson.dumps(
                value,
                use_decimal=True,
                ensure_ascii=False,
                allow_nan=False,
                # Otherwise bytes would be written as text.
                encoding=None,
                default=_as_text,
            )
        )
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _as_text(value: object) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be represented exactly in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return unique


def read_lines(file: BinaryIO) -> Iterator[tuple[int, int, Any]]:
    """The values of a file with one a line, with line numbers and lengths; raises ValueError."""
    for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE + 1), b""), 1):
        try:
            if len(line) > _MOST_LINE:
                raise ValueError(f"it has more than {_MOST_LINE >> 20} MiB")
            if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                yield number, len(line), read(text)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
