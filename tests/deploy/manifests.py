"""The files of `deploy/`, read as their tools read them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def compose() -> dict[str, Any]:
    """The compose file, with its merges done, and each variable at its default."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(_DEFAULT.sub(r"\1", text))
    return content


def env_file(name: str) -> dict[str, str]:
    """The variables of the example for a file of variables."""
    lines = (DEPLOY / f"{name}.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def commented_out(name: str) -> list[str]:
    """The names of the variables that the example for a file of variables only shows."""
    text = (DEPLOY / f"{name}.example").read_text(encoding="utf-8")
    return re.findall(r"^#([A-Z_]+)=", text, re.MULTILINE)


def copied_into_the_image() -> Iterator[tuple[Path, str]]:
    """What the last stage of the Dockerfile copies from the project: each path, and where to."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    last_stage = text[text.rindex("\nFROM ") :]
    for line in re.findall(r"^COPY (?!--)(.*)$", last_stage, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            yield ROOT / source, Path(source).name if target == "./" else target


def objects() -> list[dict[str, Any]]:
    """Every Kubernetes object of `deploy/kubernetes`."""
    return [
        each
        for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
