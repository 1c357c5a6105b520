"""Folders that no other user of this machine can enter, and what is written into folders that the user chose.

A folder is made with the mode 0700, or the one that is there is checked: whose it is, and that it is no trap of somebody else. So are the folders
above it and the links that lead to it: whoever can rename what is in one of them could put another folder in its place. A common folder such as /tmp
is never taken at its word.
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

# A Unix socket's path has 103 bytes at most on macOS, 107 on Linux; supervisord appends its process id at first.
_LONGEST_SOCKET_PATH = 95
_LONGEST_TEMPORARY_FOLDER = 60
_SHORT = "runyard-"
_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_MOST_LINKS = 40  # as many as Linux follows


def keep_private() -> None:
    """From now on only this user can read what this process and its children write."""
    os.umask(_OTHERS)


def user_name(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def private_folder(
    folder: Path, setting: str, owner: int | None = None, *, close: bool = True
) -> Path:
    """Make a folder that only its owner can enter, or close one of theirs to others; return its path, links followed.

    Parameters
    ----------
    folder
        Its path. A link in it is followed if this user, or root, made it.
    setting
        The variable that names another folder, for the errors.
    owner
        Whose it is to be: this user's by default. Root gives an empty folder of its own away.
    close
        Whether one that is there is closed to others; otherwise only their right to write in it is taken away.

    Raises `RunyardError` where it is somebody else's, no folder, cannot be closed, or others could put another in its place.
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
            f"the folder {folder} cannot be used ({error.strerror}): give {user_name(os.geteuid())} the right to it, or set {setting} to another"
        ) from None
    return place


def check_above(folder: Path, setting: str, owner: int | None = None) -> None:
    """Make sure that nobody else can put another folder in the place of this one, which need not be there; parameters as of `private_folder`.

    Every folder above it, links followed, and every link to it must belong to root, to this user, to `owner`, or to whoever can change the project's
    code. Others may write into those folders only where they cannot rename what is not theirs (the mode of /tmp). A group may where no other user is
    in it, or where it can write into the project's own folder.

    Raises `RunyardError`, which names the folder that others can change.
    """
    try:
        _Walk(folder, setting, os.geteuid() if owner is None else owner).place()
    except OSError as error:
        raise RunyardError(
            f"the folder {folder} cannot be used ({error.strerror}): set {setting} to another"
        ) from None


def open_like(root: Path, path: Path) -> None:
    """Give a file below a folder, and the folders between, the read access that this folder gives: its user may have opened it to others."""
    access = root.stat().st_mode
    for made in (path, *path.parents):
        if made == root or not made.is_relative_to(root):
            return
        mode = made.stat().st_mode
        with suppress(PermissionError):  # of another user, who has the say
            made.chmod(
                access & 0o755 | mode & stat.S_ISGID if stat.S_ISDIR(mode) else access & 0o644
            )


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
        with suppress(RunyardError):
            check_above(Path(folder) / _SHORT, "TMPDIR")
            if len(folder) <= _LONGEST_TEMPORARY_FOLDER:
                return folder
    raise RunyardError(
        "there is no temporary folder in which others leave this user's files alone: set TMPDIR to a folder of yours with a short path"
    )


class _Trusted:
    """Who may be able to change the folders above one of `owner`'s: those who could do as they like with this process anyway.

    That is root, this user, whoever owns `/`, and whoever can change the code that this process runs: the owners of the project's folder and of
    those above it, and the groups that can write there.
    """

    def __init__(self, owner: int) -> None:
        home = settings().home.resolve()
        code = [above.stat() for above in (home, *home.parents) if above.exists()]
        self.users = {0, os.geteuid(), owner, *(found.st_uid for found in code)}
        self._groups = {
            0,
            *(
                found.st_gid
                for found in code
                if found.st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP
            ),
        }

    def has_group(self, gid: int) -> bool:
        """Whether no other user is in a group; every user of many systems has one of their own, whose members can write where they can."""
        if gid in self._groups:
            return True
        with suppress(
            KeyError
        ):  # a group without a name has no members but those who have it as their first
            for name in grp.getgrgid(gid).gr_mem:
                with suppress(KeyError):
                    if pwd.getpwnam(name).pw_uid not in self.users:
                        return False
        return all(user.pw_uid in self.users for user in pwd.getpwall() if user.pw_gid == gid)


class _Walk:
    """The way to a folder, a name at a time, as the system goes it: what is on it is checked before anything behind it is looked at, or made."""

    def __init__(self, folder: Path, setting: str, owner: int, *, make: bool = False) -> None:
        self._folder, self._setting, self._make = folder.absolute(), setting, make
        self._trusted = _Trusted(owner)
        self._place = Path(self._folder.anchor)
        self._names = list(reversed(self._folder.parts[1:]))
        self._links = 0

    def place(self) -> Path:
        """The path of the folder without links; as far as it is there, unless it is to be made."""
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
                with suppress(
                    FileExistsError
                ):  # somebody was faster: it is checked as what was there before
                    (self._place / name).mkdir(mode=0o755 if self._names else 0o700)
                self._enter(self._place / name)
        return self._place

    def _enter(self, path: Path) -> None:
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode):
            self._place = path
            return
        if found.st_uid not in self._trusted.users:
            raise RunyardError(
                f"{path} is a link that {user_name(found.st_uid)} made: remove it, or set {self._setting} to another folder"
            )
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(path))
        self._place = Path(target.anchor) if target.is_absolute() else path.parent
        self._names.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))

    def _check(self, above: Path) -> None:
        """Raise if somebody else could rename what is in a folder."""
        found = above.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if found.st_uid not in self._trusted.users:
            raise self._refused(
                above,
                f"belongs to {user_name(found.st_uid)}",
                f"run this as {user_name(found.st_uid)}",
            )
        if found.st_mode & stat.S_ISVTX:
            return
        if found.st_mode & stat.S_IWOTH:
            raise self._refused(above, "can be written to by every user", f"`chmod o-w {above}`")
        if found.st_mode & stat.S_IWGRP and not self._trusted.has_group(found.st_gid):
            raise self._refused(
                above,
                f"can be written to by the group {_group_name(found.st_gid)}, which others are in",
                f"`chmod g-w {above}`",
            )

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


def _check_owner(folder: Path, found: os.stat_result, owner: int, setting: str) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise RunyardError(f"{folder} is no folder: move it away, or set {setting} to one")
    given_away = found.st_uid == os.geteuid() == 0 and not any(folder.iterdir())
    if found.st_uid != owner and not given_away:
        whose, wanted = user_name(found.st_uid), user_name(owner)
        step = (
            f"run this as {whose}"
            if owner == os.geteuid()
            else f"`chown -R {wanted} {folder}` if all in it is trusted"
        )
        raise RunyardError(
            f"the folder {folder} belongs to {whose}, not to {wanted}: {step}, or set {setting} to another"
        )


def _close_to_others(opened: int, folder: Path, owner: int, setting: str, rights: int) -> None:
    """Take these rights to the folder itself that is open from others, whatever its path leads to by now, and make it its owner's."""
    _check_owner(folder, os.fstat(opened), owner, setting)
    mode = stat.S_IMODE(os.fstat(opened).st_mode)
    if mode & rights:
        os.fchmod(opened, 0o700 if rights == _OTHERS else mode & ~rights)
    if os.fstat(opened).st_uid != owner:
        os.fchown(opened, owner, -1)
    if os.fstat(opened).st_mode & rights:
        raise RunyardError(
            f"{folder} cannot be closed to other users, its file system knows no modes: set {setting} to a folder on another"
        )
