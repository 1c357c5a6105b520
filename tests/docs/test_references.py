"""What the documentation refers to exists: pages, headings, commands and make targets."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runyard.cli.main import main
from tests.conftest import ROOT
from tests.docs import pages

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SUBSTITUTION = re.compile(r'"?\$\(([^)]*)\)"?')
_ENDS_A_COMMAND = ("|", "||", "&&", ";", "&", ">")


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = _HEADING.findall(_prose(page))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def _shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of every shell command: in `sh` blocks, and in inline code of the prose."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in _FENCE.findall(text) if language == "sh"]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _prose(page))]
    for block in [*blocks, *(code for code in inline if re.match(r"\S*(runyard|make) ", code))]:
        pending = ""
        for line in _SUBSTITUTION.sub(r" ; \1 ; ", block).splitlines():
            pending += line
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quoted text goes on in the next line
                pending += "\n"
                continue
            pending = ""
            yield words


def _calls(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of every call of a program in a page."""
    for words in _shell_lines(page):
        for position, word in enumerate(words):
            if word not in (program, f".venv/bin/{program}"):
                continue
            arguments = words[position + 1 :]
            ends = [n for n, word in enumerate(arguments) if word in _ENDS_A_COMMAND]
            yield arguments[: ends[0]] if ends else arguments


def _problem(arguments: list[str]) -> str | None:
    """Why `runyard` does not take these arguments, None when it does."""
    command: click.Command = main
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.commands.get(rest[0])
        if found is None:
            return f"there is no command {' '.join(arguments)}"
        command, rest = found, rest[1:]
    try:
        context = click.Context(command, **command.context_settings)
        command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return f"{' '.join(arguments)}: {error.format_message()}"
    return None


@pytest.mark.parametrize("page", pages.ALL, ids=_id)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", pages.ALL, ids=_id)
def test_commands_exist_with_their_options(page: Path) -> None:
    problems = [_problem(arguments) for arguments in _calls(page, "runyard")]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("page", pages.ALL, ids=_id)
def test_make_targets_exist(page: Path) -> None:
    targets = [arguments[0] for arguments in _calls(page, "make") if arguments]
    assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.M)] == []


def test_commands_are_found_at_all() -> None:
    assert sum(len(list(_calls(page, "runyard"))) for page in pages.ALL) > 50
