"""The pages about HTTP: every example runs, in each language; every endpoint is on a page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.gateway.app import endpoints
from runyard.gateway.http.errors import as_http_error
from tests.conftest import ROOT
from tests.stack.conftest import address

PAGES = sorted((ROOT / "docs" / "http").glob("*.md"))
BINARIES = Path(sys.executable).parent
_BLOCK = re.compile(r"^```(sh|python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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


def test_every_code_of_an_error_is_explained() -> None:
    assert as_http_error(KeyError("x")).code == "internal"
    gateway = ROOT / "runyard" / "gateway"
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("http", "api")
        for path in (gateway / folder).rglob("*.py")
    )
    codes = set(re.findall(r'HttpError\(\s*\d{3},\s*"(\w+)"', sources))
    codes -= {"internal", "refused", "client_disconnected", "invalid_body"}
    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    assert sorted(code for code in codes if f"`{code}`" not in page) == []
