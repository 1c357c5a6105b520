"""Printing to the terminal, without secrets and without control characters.

A character that a terminal would act on is printed as its escape (`\\x1b`), so that no event can
forge a line or hide one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from runyard.settings import settings
from runyard.text.json_lines import json_line, log_as_json
from runyard.text.redaction import Redactor, redact, redactor

# Control characters (C0, DEL, C1), those that change the direction of writing or end a line, and
# halves of surrogate pairs.
_CONTROL = "\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINE = re.compile(f"[{_CONTROL}]")
_IN_LINES = re.compile(rf"(?![\n\t])[{_CONTROL}]")

_as_json = False


def visible(text: str, *, lines: bool = False) -> str:
    """Return `text` with every control character as its escape: `\\x1b`, `\\n`, `\\u202e`.

    With `lines`, line breaks and tabs stay.
    """
    return (_IN_LINES if lines else _IN_LINE).sub(
        lambda match: match[0].encode("unicode_escape").decode(), text
    )


def echo(text: str, *, lines: bool = False, err: bool = False) -> None:
    """Print a line, or, with `lines`, text of several lines; with `err`, to standard error.

    In a process that logs as JSON it is a line of JSON.
    """
    if _as_json:
        click.echo(json_line("runyard", redact(text), "error" if err else "info"), err=err)
    else:
        click.echo(visible(redact(text), lines=lines), err=err)


def log_as_json_if_set() -> None:
    """With RUNYARD_LOG_FORMAT=json, let this process log and print lines of JSON from now on."""
    global _as_json
    if settings().log_format == "json":
        _as_json = True
        log_as_json("warning")


def echo_json(value: Any) -> None:
    """Print a value as one line of ASCII JSON, with secrets in its texts redacted."""
    # DEL is the one control character that JSON does not escape; it can occur only within texts.
    printed = json.dumps(_without_secrets(value, redactor()), default=str)
    click.echo(printed.replace("\x7f", "\\u007f"))


def _without_secrets(value: Any, without: Redactor) -> Any:
    if isinstance(value, str):
        return without(value)
    if isinstance(value, Mapping):
        return {without(str(key)): _without_secrets(inner, without) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner, without) for inner in value]
    return value
