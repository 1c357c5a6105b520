"""The wheel, built as `python -m build` builds it, installed where nothing else of ours is."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

_BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
)


def sources(*paths: str) -> set[str]:
    """The files of the checkout that git does not ignore, relative to its root."""
    options = ["-z", "--cached", "--others", "--exclude-standard", "--"]
    listing = subprocess.run(
        ["git", "ls-files", *options, *paths], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {name for name in listing.stdout.split("\0") if (ROOT / name).is_file()}


def _build(kind: str, source: Path, destination: Path) -> Path:
    """Build an sdist or a wheel with the build backend, without build isolation."""
    destination.mkdir()
    subprocess.run(
        [sys.executable, "-c", _BUILD, f"build_{kind}", str(destination)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [built] = destination.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from an sdist of this checkout."""
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    for name in sources():
        copy = checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    shutil.unpack_archive(_build("sdist", checkout, folder / "sdist"), folder / "unpacked")
    [source] = (folder / "unpacked").iterdir()
    return _build("wheel", source, folder / "wheel")


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a virtual environment that holds the wheel and borrows our dependencies.

    The dependencies come from a `.pth` file. Python does not read the `.pth` files of a folder
    named there, so the editable installation of this checkout stays out of reach.
    """
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    programs = environment / "bin"
    subprocess.run(
        [programs / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel],
        check=True,
        cwd=environment,
    )
    paths = {"base": str(environment), "platbase": str(environment)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(borrowed)))
    return programs
