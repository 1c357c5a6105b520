"""Folders that no other user of this machine can enter, and files in folders that users chose.

A folder is created with mode 0700. An existing one is checked: who owns it, and that it is not a
trap set by somebody else. So are its parents and the links that lead to it, because whoever can
rename what is in one of them could replace the folder. A shared folder such as /tmp is never
trusted.
"""

import errno
import grp
import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from runyard.errors import RunyardError
from runyard.settings import settings

# A Unix socket's path may have 103 bytes on macOS and 107 on Linux; supervisord first appends its
# process id to it.
_LONGEST_SOCKET_PATH = 95
_LONGEST_TEMPORARY_FOLDER = 60
_SHORT = "runyard-"
_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_MOST_LINKS = 40  # as many as Linux follows


def keep_private() -> None:
    """Make files that this process and its children write readable by this user only."""
    os.umask(_OTHERS)


def user_name(uid: int) -> str:
    """The name of a user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def private_folder(
    folder: Path, setting: str, owner: int | None = None, *, close: bool = True
) -> Path:
    """Create a folder that only its owner can enter, or close an existing one to others.

    Returns its path with links resolved.

    Parameters
    ----------
    folder
        Its path. A link in it is followed if this user or root created it.
    setting
        The variable by which users choose another folder, for error messages.
    owner
        Who is to own it: this user by default. Root changes the owner of its own empty folder.
    close
        Whether an existing folder is closed to others; otherwise they only lose write access.

    Raises `RunyardError` if it belongs to somebody else, is not a folder, cannot be closed, or
    could be replaced by others.
    """
    owner = os.geteuid() if owner is None else owner
    try:
        place = _Walk(folder, setting, owner, make=True).place()
        _check_owner(place, place.lstat(), owner, setting)
        opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _close_to_others(opened, place, owner, setting, _OTHERS if close else _OTHERS_WRITE)
        finally:
            os.close(opened)
    except OSError as error:
        raise RunyardError(
            f"the folder {folder} cannot be used ({error.strerror}): give"
            f" {user_name(os.geteuid())} access to it, or set {setting} to another folder"
        ) from None
    return place


def check_above(folder: Path, setting: str, owner: int | None = None) -> None:
    """Make sure that nobody else can replace this folder, which need not exist.

    All its parents, with links resolved, and every link to it must belong to root, to this user, to
    `owner`, or to whoever can change the project's code. Others may write to those folders only if
    they cannot rename what is not theirs (the mode of /tmp). A group may write to them if no other
    user is in it, or if it can write to the project's own folder. The parameters are those of
    `private_folder`.

    Raises `RunyardError`, which names the folder that others can change.
    """
    try:
        _Walk(folder, setting, os.geteuid() if owner is None else owner).place()
    except OSError as error:
        raise RunyardError(
            f"the folder {folder} cannot be used ({error.strerror}): set {setting} to another"
            " folder"
        ) from None


def open_like(root: Path, path: Path) -> None:
    """Give a file below a folder, and the folders between, the read access that this folder gives.

    Its user may have opened it to others.
    """
    access = root.stat().st_mode
    for changed in (path, *path.parents):
        if changed == root or not changed.is_relative_to(root):
            return
        mode = changed.stat().st_mode
        is_folder = stat.S_ISDIR(mode)
        with suppress(PermissionError):  # it belongs to another user, who decides
            changed.chmod(access & 0o755 | mode & stat.S_ISGID if is_folder else access & 0o644)


def fits_a_socket(path: Path) -> bool:
    """Whether a path is short enough for a Unix socket."""
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH


def short_folder(link: Path, owner: int | None = None) -> Path:
    """A private folder with a path short enough for sockets, in the system's temporary folder.

    Its name cannot be predicted; `link`, in a private folder, points to it. A folder that is gone,
    or no longer belongs to its owner, is replaced by a new one.
    """
    owner = os.geteuid() if owner is None else owner
    existing = _linked(link, owner)
    if existing is not None:
        return existing
    folder = Path(tempfile.mkdtemp(prefix=_SHORT, dir=_temporary_folder()))
    os.chown(folder, owner, -1)
    staged = link.with_name(f".{link.name}-{folder.name}")
    staged.symlink_to(folder)
    staged.replace(link)
    return folder


def delete_short_folder(link: Path, owner: int | None = None) -> None:
    """Delete the folder that `short_folder` created, if there is one."""
    existing = _linked(link, os.geteuid() if owner is None else owner)
    if existing is not None:
        shutil.rmtree(existing)


def _linked(link: Path, owner: int) -> Path | None:
    """The folder that a link points to, if it is still a private one created by `short_folder`."""
    try:
        folder = Path(os.readlink(link))
        status = folder.lstat()
    except OSError:
        return None
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid == owner
    private = owned and not status.st_mode & _OTHERS
    return folder if private and folder.name.startswith(_SHORT) else None


def _temporary_folder() -> str:
    """The folder for temporary files, if others cannot rename what is not theirs in it."""
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (it is checked)
        with suppress(RunyardError):
            check_above(Path(folder) / _SHORT, "TMPDIR")
            if len(folder) <= _LONGEST_TEMPORARY_FOLDER:
                return folder
    raise RunyardError(
        "there is no temporary folder in which this user's files are safe from others: set TMPDIR"
        " to a folder of yours with a short path"
    )


class _Trusted:
    """Who may be able to change the parents of a folder of `owner`.

    Those who have full control of this process anyway: root, this user, whoever owns `/`, and
    whoever can change the code that this process runs, which are the owners of the project's folder
    and of its parents, and the groups that can write to them.
    """

    def __init__(self, owner: int) -> None:
        home = settings().home.resolve()
        code = [folder.stat() for folder in (home, *home.parents) if folder.exists()]
        self.users = {0, os.geteuid(), owner} | {status.st_uid for status in code}
        # A group can change a folder that it can write to, unless the folder is like /tmp.
        bits = stat.S_IWGRP | stat.S_ISVTX
        writable = [status for status in code if status.st_mode & bits == stat.S_IWGRP]
        self._groups = {0} | {status.st_gid for status in writable}

    def has_group(self, gid: int) -> bool:
        """Whether no other user is in a group.

        On many systems every user has a private group, which can write wherever the user can.
        """
        if gid in self._groups:
            return True
        # A group without a name has no members but those who have it as their primary group.
        with suppress(KeyError):
            for name in grp.getgrgid(gid).gr_mem:
                with suppress(KeyError):
                    if pwd.getpwnam(name).pw_uid not in self.users:
                        return False
        return all(user.pw_uid in self.users for user in pwd.getpwall() if user.pw_gid == gid)


class _Walk:
    """Walks to a folder name by name, as the system does.

    Each folder is checked before anything inside it is looked at, or created.
    """

    def __init__(self, folder: Path, setting: str, owner: int, *, make: bool = False) -> None:
        self._folder, self._setting, self._make = folder.absolute(), setting, make
        self._trusted = _Trusted(owner)
        self._place = Path(self._folder.anchor)
        self._names = list(reversed(self._folder.parts[1:]))
        self._links = 0

    def place(self) -> Path:
        """The path of the folder without links; as far as it exists, unless it is to be created."""
        while self._names:
            name = self._names.pop()
            if name == "..":
                self._place = self._place.parent
                continue
            self._check(self._place)
            try:
                self._enter(self._place / name)
            except FileNotFoundError:
                if not self._make:
                    break
                # If somebody else is faster, their folder is checked like an existing one.
                with suppress(FileExistsError):
                    (self._place / name).mkdir(mode=0o755 if self._names else 0o700)
                self._enter(self._place / name)
        return self._place

    def _enter(self, path: Path) -> None:
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode):
            self._place = path
            return
        if status.st_uid not in self._trusted.users:
            raise RunyardError(
                f"{path} is a link that {user_name(status.st_uid)} made: remove it, or set"
                f" {self._setting} to another folder"
            )
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(path))
        self._place = Path(target.anchor) if target.is_absolute() else path.parent
        self._names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))

    def _check(self, above: Path) -> None:
        """Raise if somebody else could rename what is in a folder."""
        status = above.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if status.st_uid not in self._trusted.users:
            owner = user_name(status.st_uid)
            raise self._refused(above, f"belongs to {owner}", f"run this as {owner}")
        if status.st_mode & stat.S_ISVTX:
            return
        if status.st_mode & stat.S_IWOTH:
            raise self._refused(above, "is writable by every user", f"`chmod o-w {above}`")
        if status.st_mode & stat.S_IWGRP and not self._trusted.has_group(status.st_gid):
            reason = (
                f"is writable by the group {_group_name(status.st_gid)}, which has other members"
            )
            raise self._refused(above, reason, f"`chmod g-w {above}`")

    def _refused(self, above: Path, why: str, step: str) -> RunyardError:
        danger = f"{self._folder} could be replaced by another user's folder: {above} {why}"
        return RunyardError(
            f"{danger}. Set {self._setting} to a folder that only you can change, or {step}"
        )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _check_owner(folder: Path, status: os.stat_result, owner: int, setting: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise RunyardError(f"{folder} is not a folder: move it away, or set {setting} to a folder")
    # Root changes the owner of an empty folder of its own.
    can_change_owner = status.st_uid == os.geteuid() == 0 and not any(folder.iterdir())
    if status.st_uid == owner or can_change_owner:
        return
    actual, expected = user_name(status.st_uid), user_name(owner)
    step = (
        f"run this as {actual}"
        if owner == os.geteuid()
        else f"`chown -R {expected} {folder}` if everything in it is trusted"
    )
    raise RunyardError(
        f"the folder {folder} belongs to {actual}, not to {expected}: {step}, or set {setting} to"
        " another folder"
    )


def _close_to_others(opened: int, folder: Path, owner: int, setting: str, rights: int) -> None:
    """Take these rights from others, and set the owner.

    Both apply to the open folder itself, whatever its path leads to by now.
    """
    _check_owner(folder, os.fstat(opened), owner, setting)
    mode = stat.S_IMODE(os.fstat(opened).st_mode)
    if mode & rights:
        os.fchmod(opened, 0o700 if rights == _OTHERS else mode & ~rights)
    if os.fstat(opened).st_uid != owner:
        os.fchown(opened, owner, -1)
    if os.fstat(opened).st_mode & rights:
        raise RunyardError(
            f"{folder} cannot be closed to other users, because its file system has no modes: set"
            f" {setting} to a folder on another file system"
        )
