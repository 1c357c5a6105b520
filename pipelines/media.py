"""The media family: `media/*.uploaded` -> fetch -> inspect -> variants -> record.

Decoding happens in separate processes with limits on memory and time. A file that is refused there
fails for good, with the reason.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dagster import in_process_executor, job, op

from resources.media import preview_codecs, sandbox
from resources.media.store import SUFFIXES, MediaStore
from resources.media.tables import Media
from runyard import Batch, Item, receive, settle

FETCH, INSPECT, VARIANTS, RECORD = "fetch", "inspect", "variants", "record"
MOST_IMAGE_BYTES, MOST_VIDEO_BYTES = 100 << 20, 2 << 30
_POSTER = [
    {"width": 1280, "height": None, "format": "jpeg", "quality": None},
    {"width": 640, "height": None, "format": "webp", "quality": None},
]
_DOWNLOADS = 8


@op
def fetch_image(batch: Batch, store: MediaStore) -> Batch:
    """Keep each original."""
    return _fetch(batch, store, MOST_IMAGE_BYTES)


@op
def inspect_image(batch: Batch, store: MediaStore) -> Batch:
    """Inspect each original without decoding it; refuse what is not an image, or too large."""
    return _inspect(batch, store, "inspect image")


@op
def make_variants(batch: Batch, store: MediaStore) -> Batch:
    """Make all variants of an image from one decode, one image for each core."""

    def make(item: Item) -> dict[str, Any]:
        data = item.data
        with (
            store.local(item[FETCH]["key"]) as file,
            TemporaryDirectory(prefix="runyard-media-") as into,
        ):
            variants = [variant.model_dump() for variant in data.variants]
            written = sandbox.perform(
                "make variants",
                file=str(file),
                variants=variants,
                focal=data.focal,
                keep=data.keep,
                into=into,
            )
            return {**written, "variants": _stored(written["variants"], Path(into), store)}

    return batch.map(VARIANTS, make, threads=sandbox.how_many())


@op
def record_image(batch: Batch, store: MediaStore, media: Media) -> Batch:
    """Write the manifest and the row."""
    return batch.map(RECORD, lambda item: _record(item, "image", store, media))


@job(
    executor_def=in_process_executor,
    description="Make the variants of an image: media/image.uploaded",
)
def process_image() -> None:
    """The function's graph."""
    settle(record_image(make_variants(inspect_image(fetch_image(receive())))))


@op
def fetch_video(batch: Batch, store: MediaStore) -> Batch:
    """Keep each original."""
    return _fetch(batch, store, MOST_VIDEO_BYTES)


@op
def inspect_video(batch: Batch, store: MediaStore) -> Batch:
    """Inspect each original; refuse what is not a video, or too large."""
    return _inspect(batch, store, "inspect video")


@op
def make_poster_and_preview(batch: Batch, store: MediaStore) -> Batch:
    """Make a poster in two sizes, and a preview of a few seconds without sound."""

    def make(item: Item) -> dict[str, Any]:
        with (
            store.local(item[FETCH]["key"]) as file,
            TemporaryDirectory(prefix="runyard-media-") as into,
        ):
            video = sandbox.perform(
                "preview video", file=str(file), into=into, codec=preview_codecs.chosen()
            )
            item.progress(50, "the preview is ready")
            poster = sandbox.perform(
                "make variants",
                file=str(Path(into) / "poster.png"),
                variants=_POSTER,
                focal=[0.5, 0.5],
                keep=[],
                into=into,
            )
            files = [*poster["variants"], video["preview"]]
            return {**poster, "variants": _stored(files, Path(into), store)}

    return batch.map(VARIANTS, make, threads=sandbox.how_many())


@op
def record_video(batch: Batch, store: MediaStore, media: Media) -> Batch:
    """Write the manifest and the row."""
    return batch.map(RECORD, lambda item: _record(item, "video", store, media))


@job(
    executor_def=in_process_executor,
    description="Make the poster and the preview of a video: media/video.uploaded",
)
def process_video() -> None:
    """The function's graph."""
    settle(record_video(make_poster_and_preview(inspect_video(fetch_video(receive())))))


def _fetch(batch: Batch, store: MediaStore, most: int) -> Batch:
    def fetch(item: Item) -> dict[str, Any]:
        with TemporaryDirectory(prefix="runyard-media-") as folder:
            file = Path(folder) / "original"
            store.fetch(item.data.source, file, most)
            return store.put(file, "")

    return batch.map(FETCH, fetch, threads=_DOWNLOADS)


def _inspect(batch: Batch, store: MediaStore, task: str) -> Batch:
    def inspect(item: Item) -> dict[str, Any]:
        with store.local(item[FETCH]["key"]) as file:
            return sandbox.perform(task, file=str(file))

    return batch.map(INSPECT, inspect, threads=sandbox.how_many())


def _stored(files: list[dict[str, Any]], folder: Path, store: MediaStore) -> list[dict[str, Any]]:
    return [
        {**file, **store.put(folder / file["file"], SUFFIXES[file["format"]])} for file in files
    ]


def _record(item: Item, kind: str, store: MediaStore, media: Media) -> dict[str, Any]:
    asset = item.key
    original, variants = item[INSPECT], item[VARIANTS]
    files = [
        {key: value for key, value in file.items() if key != "file" and value is not None}
        for file in variants["variants"]
    ]
    manifest = {
        "id": asset,
        "kind": kind,
        "original": {**item[FETCH], **original},
        "variants": files,
        "placeholder": variants["placeholder"],
        "colour": variants["colour"],
    }
    key = store.put_manifest(asset, manifest)
    media.record(
        {
            "id": asset,
            "event_id": item.event.id,
            "kind": kind,
            "source": item.data.source.partition("?")[0],
            "original": item[FETCH]["key"],
            "bytes": item[FETCH]["bytes"],
            "variant_bytes": sum(file["bytes"] for file in files),
            "width": original["width"],
            "height": original["height"],
            "placeholder": variants["placeholder"],
            "colour": variants["colour"],
            "manifest": manifest,
        }
    )
    pages = {"pages": original["pages"]} if original.get("pages", 1) > 1 else {}
    return {"media": asset, "manifest": key, "variants": [file["key"] for file in files], **pages}
