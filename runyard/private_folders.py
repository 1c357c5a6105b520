"""Folders that no other user of this machine can enter, and what is written into folders that the user chose.

A folder is made with the mode 0700, or the one that is there is checked: whose it is, and that it is no trap of somebody else. A common folder
such as /tmp is never taken at its word.
"""

import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from runyard.errors import RunyardError
from runyard.settings import Settings, settings

# A Unix socket's path has 103 bytes at most on macOS, 107 on Linux; supervisord appends its process id at first.
_LONGEST_SOCKET_PATH = 95
_LONGEST_TEMPORARY_FOLDER = 60
_SHORT = "runyard-"
_OTHERS = 0o077


def keep_private() -> None:
    """From now on only this user can read what this process and its children write."""
    os.umask(_OTHERS)


def user_name(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def private_folder(folder: Path, setting: str, owner: int | None = None, *, close: bool = True) -> Path:
    """Make a folder that only its owner can enter, or close one of theirs to others; return its path, links followed.

    Parameters
    ----------
    folder
        Its path. A link is followed if this user, or root, made it.
    setting
        The variable that names another folder, for the errors.
    owner
        Whose it is to be: this user's by default. Root gives an empty folder of its own away.
    close
        Whether one that is there is closed to others; otherwise it is only checked whose it is.

    Raises `RunyardError` where it is somebody else's, no folder, or cannot be closed.
    """
    owner = os.geteuid() if owner is None else owner
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        place = _followed(folder, setting)
        _check_owner(place, place.lstat(), owner, setting)
        opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if close:
                _close_to_others(opened, place, owner, setting)
        finally:
            os.close(opened)
    except OSError as error:
        raise RunyardError(
            f"the folder {folder} cannot be used ({error.strerror}): give {user_name(os.geteuid())} the right to it, or set {setting} to another"
        ) from None
    return place


def data_folder(of: Settings | None = None) -> Path:
    """The project's data folder, made and private; raises `RunyardError` as `private_folder`.

    It stays open as long as a server runs in it that an older version started for root: that runs as another user, and would crash without its files.
    """
    chosen = of or settings()
    needed = os.geteuid() == 0 and _serves_another_user(chosen.data / "postgres")
    return private_folder((chosen.data_dir or chosen.home / ".runyard").absolute(), "RUNYARD_DATA_DIR", close=not needed)


def _serves_another_user(postgres_dir: Path) -> bool:
    from runyard.store.embedded import embedded_url

    return postgres_dir.exists() and postgres_dir.stat().st_uid != 0 and embedded_url(postgres_dir) is not None


def make_folder(folder: Path) -> None:
    """Make a folder with all above it; the data folder, where it is one of those, as a private one."""
    if folder.is_relative_to(settings().data):
        data_folder()
    folder.mkdir(parents=True, exist_ok=True)


def open_like(root: Path, path: Path) -> None:
    """Give a file below a folder, and the folders between, the read access that this folder gives: its user may have opened it to others."""
    access = root.stat().st_mode
    for made in (path, *path.parents):
        if made == root or not made.is_relative_to(root):
            return
        mode = made.stat().st_mode
        with suppress(PermissionError):  # of another user, who has the say
            made.chmod(access & 0o755 | mode & stat.S_ISGID if stat.S_ISDIR(mode) else access & 0o644)


def fits_a_socket(path: Path) -> bool:
    """Whether a path is short enough for a Unix socket."""
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH


def short_folder(link: Path, owner: int | None = None) -> Path:
    """A private folder with a path that is short enough for sockets, in the system's temporary folder.

    It has a name that nobody can know before; `link`, in a private folder, remembers it. One that is gone, or no longer its owner's, is made anew.
    """
    owner = os.geteuid() if owner is None else owner
    found = _remembered(link, owner)
    if found is not None:
        return found
    made = Path(tempfile.mkdtemp(prefix=_SHORT, dir=_temporary_folder()))
    os.chown(made, owner, -1)
    staged = link.with_name(f".{link.name}-{made.name}")
    staged.symlink_to(made)
    staged.replace(link)
    return made


def delete_short_folder(link: Path, owner: int | None = None) -> None:
    """Delete the folder that `short_folder` made, if there is one."""
    found = _remembered(link, os.geteuid() if owner is None else owner)
    if found is not None:
        shutil.rmtree(found)


def _remembered(link: Path, owner: int) -> Path | None:
    """The folder that a link remembers, if it is one of `short_folder` still."""
    try:
        found = Path(os.readlink(link))
        seen = found.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(seen.st_mode) and seen.st_uid == owner and not seen.st_mode & _OTHERS
    return found if private and found.name.startswith(_SHORT) else None


def _temporary_folder() -> str:
    """Where temporary files go, if others cannot rename there what is not theirs."""
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (it is checked)
        found = Path(folder).stat()
        safe = found.st_uid in (0, os.geteuid()) and (not found.st_mode & 0o022 or found.st_mode & stat.S_ISVTX)
        if safe and len(folder) <= _LONGEST_TEMPORARY_FOLDER:
            return folder
    raise RunyardError("there is no temporary folder in which others leave this user's files alone: set TMPDIR to a folder of yours with a short path")


def _followed(folder: Path, setting: str) -> Path:
    found = folder.lstat()
    if not stat.S_ISLNK(found.st_mode):
        return folder
    if found.st_uid not in (0, os.geteuid()):
        raise RunyardError(f"{folder} is a link that {user_name(found.st_uid)} made: remove it, or set {setting} to another folder")
    return folder.resolve()


def _check_owner(folder: Path, found: os.stat_result, owner: int, setting: str) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise RunyardError(f"{folder} is no folder: move it away, or set {setting} to one")
    given_away = found.st_uid == os.geteuid() == 0 and not any(folder.iterdir())
    if found.st_uid != owner and not given_away:
        whose, wanted = user_name(found.st_uid), user_name(owner)
        step = f"run this as {whose}" if owner == os.geteuid() else f"`chown -R {wanted} {folder}` if all in it is trusted"
        raise RunyardError(f"the folder {folder} belongs to {whose}, not to {wanted}: {step}, or set {setting} to another")


def _close_to_others(opened: int, folder: Path, owner: int, setting: str) -> None:
    """Change mode and owner of the folder itself that is open, whatever its path leads to by now."""
    _check_owner(folder, os.fstat(opened), owner, setting)
    if os.fstat(opened).st_mode & _OTHERS:
        os.fchmod(opened, 0o700)
    if os.fstat(opened).st_uid != owner:
        os.fchown(opened, owner, -1)
    if os.fstat(opened).st_mode & _OTHERS:
        raise RunyardError(f"{folder} cannot be closed to other users, its file system knows no modes: set {setting} to a folder on another")
