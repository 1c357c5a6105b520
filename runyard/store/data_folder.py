"""The project's data folder: private, but for the embedded PostgreSQL of root's, which runs as another user."""

import os
import stat
from pathlib import Path

from runyard.settings import Settings, settings
from runyard.store.embedded import embedded_url
from runyard.store.embedded_programs import server_uid
from runyard.store.private_folders import private_folder


def data_folder(of: Settings | None = None) -> Path:
    """The project's data folder, made and private; raises `RunyardError` as `private_folder`.

    Others can enter it as long as a server runs in it that an older version started for root: that runs as another user, and would crash without its
    files. Nobody else can ever write in it.
    """
    chosen = of or settings()
    needed = os.geteuid() == 0 and _serves_another_user(chosen.data / "postgres")
    return private_folder(
        (chosen.data_dir or chosen.home / ".runyard").absolute(),
        "RUNYARD_DATA_DIR",
        close=not needed,
    )


def _serves_another_user(postgres_dir: Path) -> bool:
    """Whether a server of root's runs in this folder: as the user that such servers run as, not as somebody who made a folder that looks like one."""
    try:
        found = postgres_dir.lstat()
    except OSError:
        return False
    # A process is the server's only if it belongs to the owner of the folder.
    running = (
        stat.S_ISDIR(found.st_mode) and found.st_uid != 0 and embedded_url(postgres_dir) is not None
    )
    return running and found.st_uid == server_uid()


def make_folder(folder: Path) -> None:
    """Make a folder with all above it; the data folder, where it is one of those, as a private one."""
    if folder.is_relative_to(settings().data):
        data_folder()
    folder.mkdir(parents=True, exist_ok=True)
