"""The Jinja2 environment of every page: autoescaping is on, and undefined variables are errors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(folders: Sequence[Path], pretty: Callable[..., str]) -> Environment:
    """The templates in these folders, searched in order; `pretty` is the filter that shows JSON."""
    templates = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["pretty"] = pretty
    return templates


def as_pretty_json(value: object) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
