"""The project's data folder: private, unless a server that root started runs in it."""

import os
import stat
from pathlib import Path

from runyard.settings import Settings, settings
from runyard.store.embedded import embedded_url
from runyard.store.embedded_programs import server_uid
from runyard.store.private_folders import private_folder


def data_folder(of: Settings | None = None) -> Path:
    """The project's data folder, created and private; raises `RunyardError` like `private_folder`.

    Others can enter it while a server runs in it that an older version started for root: that
    server runs as another user, and would crash without its files. Nobody else can ever write to
    it.
    """
    chosen = of or settings()
    folder = (chosen.data_dir or chosen.home / ".runyard").absolute()
    needed_by_server = os.geteuid() == 0 and _serves_another_user(chosen.data / "postgres")
    return private_folder(folder, "RUNYARD_DATA_DIR", close=not needed_by_server)


def _serves_another_user(postgres_dir: Path) -> bool:
    """Whether a server started by root runs in this folder.

    It runs as the user that such servers run as, not as somebody who made a similar folder.
    """
    try:
        status = postgres_dir.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid == 0:
        return False
    # A process counts as the server's only if it belongs to the owner of the folder.
    return embedded_url(postgres_dir) is not None and status.st_uid == server_uid()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; if the data folder is among them, as a private one."""
    if folder.is_relative_to(settings().data):
        data_folder()
    folder.mkdir(parents=True, exist_ok=True)
