"""The pages about HTTP: every example runs, in each language; every endpoint is on a page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.gateway.app import endpoints
from tests.conftest import ROOT
from tests.stack.conftest import address

PAGES = sorted((ROOT / "docs" / "http").glob("*.md"))
BINARIES = Path(sys.executable).parent
_BLOCK = re.compile(r"^```(sh|python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# `HttpError(404, "not_found", ...)`, over several lines too, and what makes one of a code alone.
_CODE = re.compile(r'(?:HttpError\(\s*\d{3},|_retry\(|\d{3}: \()\s*"(\w+)"')
COMMANDS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-W", "ignore", "-c"],
    "js": [str(BINARIES / "node"), "--input-type=module", "-e"],
}


@pytest.mark.parametrize("language", COMMANDS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("stack")
def test_an_example_runs(page: Path, language: str) -> None:
    blocks = [
        text
        for found, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]
    assert blocks, f"{page.name} has no example in {language}"
    for block in blocks:
        code = block.replace("http://localhost:8290", address())
        variables = {
            **os.environ,
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "RUNYARD_KEY": "a-key",
        }
        done = subprocess.run(
            [*COMMANDS[language], code],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=variables,
            timeout=90,
        )
        report = f"{page.name}:\n{block}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, report
        assert done.stdout.strip(), report


def test_every_endpoint_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "docs" / "http.md"])
    # A page may name a path once, and then only the last segments of others.
    missing = [
        endpoint.path
        for endpoint in endpoints()
        if endpoint.path not in text and f"`/{endpoint.path.rpartition('/')[2]}`" not in text
    ]
    missing = [path for path in missing if f"`{path.rpartition('/')[2]}`" not in text]
    assert missing == []


def _codes() -> set[str]:
    """The code of every error in the source of the gateway and of the project's endpoints."""
    sources = [*(ROOT / "runyard" / "gateway").rglob("*.py"), ROOT / "pipelines/http_extensions.py"]
    return {code for path in sources for code in _CODE.findall(path.read_text(encoding="utf-8"))}


def test_every_code_of_an_error_is_explained() -> None:
    codes = _codes()
    assert {"not_found", "locked", "csrf_failed", "budget"} <= codes
    codes -= {
        "client_disconnected",  # its client is gone and reads no answer
    }
    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    assert sorted(code for code in codes if f"`{code}`" not in page) == []


def test_every_code_of_the_page_exists() -> None:
    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    section = page.partition("## Errors")[2].partition("## Limits")[0]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", section)) - {"error", "code", "field", "id"}
    assert sorted(named - _codes() - {"request_id"}) == []
