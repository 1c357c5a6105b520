"""What `runyard catalog --asyncapi` prints: AsyncAPI's own parser finds nothing wrong with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
_PARSER = "@asyncapi/parser@3.6.6"
_PARSE = """\
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const { document, diagnostics } = await new Parser().parse(readFileSync("asyncapi.json", "utf8"));
const wrong = diagnostics.filter(({ severity }) => severity < 2);
const names = document?.messages().all().map((message) => message.name()) ?? [];
console.log(JSON.stringify({ wrong: wrong.map(({ message }) => message), names }));
"""


def test_the_parser_takes_the_document_with_every_event(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    variables = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path)}
    document = subprocess.run(
        [sys.executable, "-m", "runyard", "catalog", "--asyncapi"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "asyncapi.json").write_bytes(document)
    (tmp_path / "parse.js").write_text(_PARSE)
    install = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([binaries / "npm", *install, _PARSER], cwd=tmp_path, check=True, timeout=300)
    parsed = subprocess.run(
        [binaries / "node", "parse.js"],
        cwd=tmp_path,
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = [message["name"] for message in json.loads(document)["components"]["messages"].values()]
    assert json.loads(parsed) == {"wrong": [], "names": names}
