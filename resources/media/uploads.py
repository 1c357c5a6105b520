"""Files that the dev page uploads, for `source` in `media/...uploaded`: kept for a week."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resources.media.store import uploads_folder
from runyard.events import new_ulid
from runyard.store.data_folder import make_folder
from runyard.store.private_folders import open_like

# A folder of its own: what an application has put beside it is not ours to delete.
_FOLDER = "dev-page"
_KEPT_SECONDS = 7 * 86_400.0
_KEPT_BYTES = 10 << 30
_STRANGE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 80
_UPLOADED = re.compile(rf"^{_FOLDER}/[0-9A-HJKMNP-TV-Z]{{26}}-")


@dataclass
class Upload:
    """A file that is being written; `value` is its name below the folder of uploads."""

    value: str
    file: BinaryIO

    def write(self, piece: bytes) -> int:
        """Add bytes."""
        return self.file.write(piece)


@contextmanager
def receive(name: str) -> Iterator[Upload]:
    """Write a file below MEDIA_UPLOADS, under a name like its own; it is there after the block.

    After an error in the block, nothing of it is left.
    """
    folder = uploads_folder() / _FOLDER
    make_folder(folder)
    _delete_old(folder)
    plain = _STRANGE.sub("-", name).lstrip(".-")[-_MAX_NAME:] or "file"
    target = folder / f"{new_ulid()}-{plain}"
    partial = target.with_name(f".{target.name}")
    try:
        with partial.open("xb") as file:
            yield Upload(f"{_FOLDER}/{target.name}", file)
        open_like(uploads_folder(), partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def own_name(source: str) -> str:
    """The name of a file as it was uploaded; that of any other source as it is."""
    return _UPLOADED.sub("", source)


def _delete_old(folder: Path) -> None:
    """Delete what is older than a week, and the oldest of what is too much."""
    before, kept = time.time() - _KEPT_SECONDS, 0
    files = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            files.append((file.lstat(), file))
    for status, file in sorted(files, key=lambda found: -found[0].st_mtime):
        kept += status.st_size
        if status.st_mtime < before or kept > _KEPT_BYTES:
            file.unlink(missing_ok=True)
