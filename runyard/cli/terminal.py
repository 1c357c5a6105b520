"""What the commands print: without secrets, and with characters that a terminal would obey shown instead (`\\x1b`), so that no event can forge a line or hide one."""

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from runyard.text.redaction import Redactor, redact, redactor

# Control characters (C0, DEL, C1), what changes the direction of writing, what ends a line, and halves of surrogate pairs.
_OBEYED = "\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINE = re.compile(f"[{_OBEYED}]")
_IN_LINES = re.compile(rf"(?![\n\t])[{_OBEYED}]")


def visible(text: str, *, lines: bool = False) -> str:
    """Return `text` with every character that a terminal would obey as its escape: `\\x1b`, `\\n`, `\\u202e`; with `lines`, line breaks and tabs stay."""
    return (_IN_LINES if lines else _IN_LINE).sub(
        lambda found: found[0].encode("unicode_escape").decode(), text
    )


def echo(text: str, *, lines: bool = False, err: bool = False) -> None:
    """Print a line, or text that has line breaks of its own (`lines`); to standard error with `err`."""
    click.echo(visible(redact(text), lines=lines), err=err)


def echo_json(value: Any) -> None:
    """Print a value as one line of JSON: without secrets in its texts, and ASCII alone."""
    # DEL is the one control character that JSON lets stand; outside of texts there is none.
    click.echo(
        json.dumps(_without_secrets(value, redactor()), default=str).replace("\x7f", "\\u007f")
    )


def _without_secrets(value: Any, without: Redactor) -> Any:
    if isinstance(value, str):
        return without(value)
    if isinstance(value, Mapping):
        return {without(str(key)): _without_secrets(inner, without) for key, inner in value.items()}
    return (
        [_without_secrets(inner, without) for inner in value]
        if isinstance(value, list | tuple)
        else value
    )
