"""Versioned prompts: `templates/prompts/NAME.txt`, whose first line is `Version: ...`.

They are Jinja2 templates, rendered in a sandbox.
"""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FOLDER = Path(__file__).resolve().parents[2] / "templates" / "prompts"
_VERSION = "Version: "


def render_prompt(name: str, data: dict[str, Any]) -> tuple[str, str]:
    """A rendered prompt, and its version as it is recorded with the text: `outline/1`."""
    version, body = _source(name)
    return _environment().from_string(body).render(data).strip(), f"{name}/{version}"


@cache
def _source(name: str) -> tuple[str, str]:
    first, _, body = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    return first.removeprefix(_VERSION).strip(), body


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
