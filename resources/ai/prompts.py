"""Prompts as files with a version: `templates/prompts/name.txt`, whose first line is `Version: ...`. Jinja2 in a sandbox."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FOLDER = Path(__file__).resolve().parents[2] / "templates" / "prompts"
_VERSION = "Version: "


def render_prompt(name: str, data: dict[str, Any]) -> tuple[str, str]:
    """A prompt with its data, and its version as it is kept with what came of it: `outline/1`."""
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
