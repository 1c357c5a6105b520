"""Jinja2 as every page of the web process uses it: what is not marked as HTML is escaped, and what is not there is an error."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(folders: Sequence[Path], pretty: Callable[..., str]) -> Environment:
    """The templates of these folders, the first that has one; `pretty` is how they show JSON."""
    made = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["pretty"] = pretty
    return made


def as_pretty_json(value: object) -> str:
    """JSON with indents."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
