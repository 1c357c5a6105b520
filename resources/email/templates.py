"""Renders mail templates: Jinja2 in a sandbox, HTML with a plain-text part.

A template `welcome` is two files: `welcome.html`, and `welcome.txt` whose first line is
`Subject: ...`. In HTML everything is escaped; a variable missing from the data is an error.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from resources.settings import EmailSettings
from runyard.errors import NonRetriable

_SUBJECT = "Subject: "


@dataclass(frozen=True)
class Rendered:
    """A mail's subject and bodies; `html` is None for a mail of plain text."""

    subject: str
    text: str
    html: str | None


def template_folder() -> Path:
    """The folder of the mail templates (MAIL_TEMPLATES)."""
    return EmailSettings.read().mail_templates


def template_names() -> list[str]:
    """The names of all templates, sorted."""
    return sorted(path.stem for path in template_folder().glob("*.txt"))


def render_template(name: str, data: dict[str, Any], subject: str | None = None) -> Rendered:
    """Render a template; `subject` replaces its own. Raises `NonRetriable` for missing data."""

    environment = _environment(template_folder())
    try:
        # The subject is rendered by itself: a line break in the data cannot end it.
        first, _, body = (
            (template_folder() / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
        )
        own_subject = " ".join(
            environment.from_string(first.removeprefix(_SUBJECT)).render(data).split()
        )
        text = environment.from_string(body).render(data)
        html = environment.get_template(f"{name}.html").render(data)
    except UndefinedError as error:
        raise NonRetriable(
            f"template {name}: a variable is missing from the event's data.data: {error.message}"
        ) from None
    except TemplateError as error:
        raise NonRetriable(f"template {name} cannot be rendered: {error}") from None
    return Rendered(subject or own_subject, text.strip() + "\n", html)


@cache
def _environment(folder: Path) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
