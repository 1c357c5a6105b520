"""Stores media in a folder, or in S3, GCS or Azure by URL (MEDIA_STORE).

Content-addressed: files are named by their SHA-256, so the same bytes are stored once.
"""

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from dagster import ConfigurableResource
from upath import UPath

from resources.bounded_http import TooLarge
from resources.safe_http import opened, read
from resources.settings import MediaSettings
from runyard.errors import NonRetriable
from runyard.settings import settings
from runyard.store.data_folder import make_folder
from runyard.store.private_folders import open_like

SUFFIXES = {
    "webp": ".webp",
    "avif": ".avif",
    "jpeg": ".jpg",
    "png": ".png",
    "mp4": ".mp4",
    "webm": ".webm",
}
VIDEOS = ("mp4", "webm")
MOST_IMAGE_BYTES, MOST_VIDEO_BYTES = 100 << 20, 2 << 30
_PIECE = 1 << 20
# Errors of a file name itself, which a retry does not change.
_NO_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP)
_FETCH_SECONDS = 120.0


class MediaStore(ConfigurableResource[Any]):
    """Stores files under their checksums, and fetches the sources that events name."""

    @property
    def root(self) -> UPath:
        """The folder or bucket."""
        return UPath(MediaSettings.read().media_store or settings().data / "media")

    def put(self, file: Path, suffix: str) -> dict[str, Any]:
        """Store a file unless it exists already; return its key, its bytes and its checksum."""
        digest = checksum(file)
        key = f"{digest[:2]}/{digest}{suffix}"
        target = self.root / key
        if not target.exists():
            # A folder gets it under a temporary name first; object stores are atomic by themselves.
            local = self.make_above(target)
            written = target.with_name(f".{digest}-{uuid4().hex}") if local else target
            with file.open("rb") as source, written.open("wb") as sink:
                while piece := source.read(_PIECE):
                    sink.write(piece)
            if local:
                open_like(Path(self.root.path), Path(written.path))
                written.rename(target)
        return {"key": key, "bytes": file.stat().st_size, "sha256": digest}

    def put_manifest(self, name: str, manifest: dict[str, Any]) -> str:
        """Store an asset's manifest under the asset's name; return the key."""
        target = self.root / "manifests" / f"{name}.json"
        local = self.make_above(target)
        target.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        if local:
            open_like(Path(self.root.path), Path(target.path))
        return f"manifests/{name}.json"

    @staticmethod
    def make_above(target: UPath) -> bool:
        """Create the parent folder of a file; return whether it is on this machine."""
        local = target.protocol in ("", "file")
        if local:
            make_folder(Path(target.parent.path))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
        return local

    def fetch(self, source: str, into: Path, most: int) -> None:
        """Copy a source (a URL, a path below MEDIA_UPLOADS, an upload's id) into a file.

        Raises as `resources.safe_http`.
        """
        if "://" in source:
            with opened("GET", source, seconds=_FETCH_SECONDS, most=most) as response:
                _write(read(response, most), into)
            return
        upload = _uploaded(source)
        if upload.stat().st_size > most:
            raise TooLarge(f"it has more than {most} bytes")
        with upload.open("rb") as opened_file:
            _write(iter(lambda: opened_file.read(_PIECE), b""), into)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A stored file as a local file, for the duration of the block."""
        target = self.root / key
        if target.protocol in ("", "file"):
            yield Path(target.path)
            return
        with TemporaryDirectory(prefix="runyard-media-") as folder, target.open("rb") as source:
            copy = Path(folder) / "file"
            _write(iter(lambda: source.read(_PIECE), b""), copy)
            yield copy

    def files(self) -> Iterator[tuple[str, int, float]]:
        """Every content-addressed file: key, bytes, time of its last change (epoch seconds)."""
        if self.root.exists():
            for path in self.root.glob("??/*"):
                stat = path.stat()
                yield f"{path.parent.name}/{path.name}", int(stat.st_size), float(stat.st_mtime)

    def delete(self, key: str) -> None:
        """Delete a file, if it exists."""
        (self.root / key).unlink(missing_ok=True)


def uploads_folder() -> Path:
    """The folder in which an application leaves files for `media/...uploaded` (MEDIA_UPLOADS)."""
    return Path(MediaSettings.read().media_uploads or settings().data / "uploads").resolve()


def checksum(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()


def _uploaded(source: str) -> Path:
    """A file below the folder of uploads; no other local file can be named."""
    folder, shown = uploads_folder(), repr(source[:200])
    try:
        file = (folder / source).resolve()
        if not file.is_relative_to(folder):
            raise NonRetriable(f"{shown} is not below the folder of uploads (MEDIA_UPLOADS)")
        if not file.is_file():
            raise NonRetriable(f"there is no upload {shown} below MEDIA_UPLOADS")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: circular links
        if isinstance(error, OSError) and error.errno not in _NO_NAMES:
            raise
        raise NonRetriable(
            f"{shown} is not a valid name of an upload below MEDIA_UPLOADS"
        ) from None
    return file


def _write(pieces: Iterable[bytes], into: Path) -> None:
    with into.open("wb") as sink:
        for piece in pieces:
            sink.write(piece)
