"""Where media are kept: a folder, or S3, GCS or Azure by URL (MEDIA_STORE). Content-addressed: the same bytes are stored once, under their SHA-256."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from dagster import ConfigurableResource
from psycopg.types.json import Jsonb
from upath import UPath

from resources.bounded_http import TooLarge
from resources.safe_http import opened, read
from runyard.errors import NonRetriable
from runyard.settings import settings
from runyard.store import database
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
_PIECE = 1 << 20
# How the system refuses a name itself: another time changes nothing.
_NO_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP)
_FETCH_SECONDS = 120.0


class Media(ConfigurableResource[Any]):
    """Writes `app.media`."""

    def record(self, row: dict[str, Any]) -> None:
        """Keep what there is of an asset; the same id again replaces it."""
        with database.connection() as connection:
            # by media_pkey
            connection.execute(
                "INSERT INTO app.media (id, event_id, kind, source, original, bytes, variant_bytes, width, height, placeholder, colour, manifest, created_at) VALUES"
                " (%(id)s, %(event_id)s, %(kind)s, %(source)s, %(original)s, %(bytes)s, %(variant_bytes)s, %(width)s, %(height)s, %(placeholder)s, %(colour)s,"
                " %(manifest)s, runyard.now()) ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, variant_bytes = excluded.variant_bytes",
                {**row, "manifest": Jsonb(row["manifest"])},
            )

    def orphans(self, store: "MediaStore", older_than: float) -> list[tuple[str, int]]:
        """Files (key, bytes) that no asset names and that have not been changed since a time (seconds since the epoch)."""
        found = {key: size for key, size, changed in store.files() if changed < older_than}
        with database.connection() as connection:
            # (every row is looked at: once a day)
            rows = connection.execute(
                "SELECT original AS key FROM app.media UNION SELECT file->>'key' FROM app.media, jsonb_array_elements(manifest->'variants') AS file"
            )
            named = {str(row["key"]) for row in rows}
        return [(key, size) for key, size in sorted(found.items()) if key not in named]


class MediaStore(ConfigurableResource[Any]):
    """Puts files under their checksum, and fetches what events name."""

    @property
    def root(self) -> UPath:
        """The folder or bucket."""
        return UPath(os.environ.get("MEDIA_STORE") or settings().data / "media")

    def put(self, file: Path, suffix: str) -> dict[str, Any]:
        """Keep a file; return its key, its bytes and its checksum. A file that is there already is not written again."""
        digest = checksum(file)
        key = f"{digest[:2]}/{digest}{suffix}"
        target = self.root / key
        if not target.exists():
            # Written beside it and renamed where that is atomic; an object store shows an object only when it is whole.
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
        """Keep what there is of an asset under its name; return the key."""
        target = self.root / "manifests" / f"{name}.json"
        local = self.make_above(target)
        target.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        if local:
            open_like(Path(self.root.path), Path(target.path))
        return f"manifests/{name}.json"

    @staticmethod
    def make_above(target: UPath) -> bool:
        """Make the folder that a file is to be in; return whether it is one of this machine."""
        local = target.protocol in ("", "file")
        if local:
            make_folder(Path(target.parent.path))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
        return local

    def fetch(self, source: str, into: Path, most: int) -> None:
        """Write what an event names (a URL, a path below MEDIA_UPLOADS, an upload's id) into a file; raises as `resources.safe_http`."""
        if "://" in source:
            with opened("GET", source, seconds=_FETCH_SECONDS, most=most) as response:
                _write(read(response, most), into)
            return
        found = _uploaded(source)
        if found.stat().st_size > most:
            raise TooLarge(f"it has more than {most} bytes")
        with found.open("rb") as opened_file:
            _write(iter(lambda: opened_file.read(_PIECE), b""), into)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A kept file as a file of this machine, as long as the block lasts."""
        target = self.root / key
        if target.protocol in ("", "file"):
            yield Path(target.path)
            return
        with TemporaryDirectory(prefix="runyard-media-") as folder, target.open("rb") as source:
            copy = Path(folder) / "file"
            _write(iter(lambda: source.read(_PIECE), b""), copy)
            yield copy

    def files(self) -> Iterator[tuple[str, int, float]]:
        """Every kept file below the two letters of its checksum: key, bytes, time of its last change (seconds since the epoch)."""
        if self.root.exists():
            for path in self.root.glob("??/*"):
                found = path.stat()
                yield f"{path.parent.name}/{path.name}", int(found.st_size), float(found.st_mtime)

    def delete(self, key: str) -> None:
        """Delete a file; one that is gone already is no error."""
        (self.root / key).unlink(missing_ok=True)


def uploads_folder() -> Path:
    """Where an application leaves files for `media/...uploaded` (MEDIA_UPLOADS, or `uploads` in the data folder)."""
    return Path(os.environ.get("MEDIA_UPLOADS") or settings().data / "uploads").resolve()


def checksum(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()


def _uploaded(source: str) -> Path:
    """A file below the folder of uploads; nothing else of this machine can be named."""
    folder, shown = uploads_folder(), repr(source[:200])
    try:
        found = (folder / source).resolve()
        if not found.is_relative_to(folder):
            raise NonRetriable(f"{shown} is not below the folder of uploads (MEDIA_UPLOADS)")
        if not found.is_file():
            raise NonRetriable(f"there is no upload {shown} below MEDIA_UPLOADS")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        if isinstance(error, OSError) and error.errno not in _NO_NAMES:
            raise
        raise NonRetriable(f"{shown} can be no name of an upload below MEDIA_UPLOADS") from None
    return found


def _write(pieces: Iterable[bytes], into: Path) -> None:
    with into.open("wb") as sink:
        for piece in pieces:
            sink.write(piece)
