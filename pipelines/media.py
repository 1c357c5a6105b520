"""The media family: `media/*.uploaded` -> fetch -> inspect -> variants -> record.

Decoding happens in separate processes with limits on memory and time. A file that is refused there
fails for good, with the reason.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.events import MediaImageUploaded, MediaVideoUploaded
from resources.media import preview_codecs, sandbox
from resources.media.store import MOST_IMAGE_BYTES, MOST_VIDEO_BYTES, SUFFIXES, MediaStore
from resources.media.tables import Media
from runyard import Batch, Item, step

_POSTER = [
    {"width": 1280, "height": None, "format": "jpeg", "quality": None},
    {"width": 640, "height": None, "format": "webp", "quality": None},
]
_DOWNLOADS = 8


@step(name="fetch", op="fetch_image", threads=_DOWNLOADS)
def fetch_image(item: Item[MediaImageUploaded], store: MediaStore) -> dict[str, Any]:
    """Keep each original."""
    return _fetched(item.data.source, store, MOST_IMAGE_BYTES)


@step
def inspect_image(batch: Batch, store: MediaStore) -> Batch:
    """Inspect each original without decoding it; refuse what is not an image, or too large."""
    return _inspect(batch, store, "inspect image")


@step
def make_variants(batch: Batch, store: MediaStore) -> Batch:
    """Make all variants of an image from one decode, one image for each core."""
    return batch.map("variants", partial(_variants, store=store), threads=sandbox.how_many())


@step(name="record", op="record_image")
def record_image(item: Item[MediaImageUploaded], store: MediaStore, media: Media) -> dict[str, Any]:
    """Write the manifest and the row."""
    return _recorded(item, "image", store, media)


@step(name="fetch", op="fetch_video", threads=_DOWNLOADS)
def fetch_video(item: Item[MediaVideoUploaded], store: MediaStore) -> dict[str, Any]:
    """Keep each original."""
    return _fetched(item.data.source, store, MOST_VIDEO_BYTES)


@step
def inspect_video(batch: Batch, store: MediaStore) -> Batch:
    """Inspect each original; refuse what is not a video, or too large."""
    return _inspect(batch, store, "inspect video")


@step
def make_poster_and_preview(batch: Batch, store: MediaStore) -> Batch:
    """Make a poster in two sizes, and a preview of a few seconds without sound."""
    make = partial(_poster_and_preview, store=store)
    return batch.map("variants", make, threads=sandbox.how_many())


@step(name="record", op="record_video")
def record_video(item: Item[MediaVideoUploaded], store: MediaStore, media: Media) -> dict[str, Any]:
    """Write the manifest and the row."""
    return _recorded(item, "video", store, media)


def _fetched(source: str, store: MediaStore, most: int) -> dict[str, Any]:
    with TemporaryDirectory(prefix="runyard-media-") as folder:
        file = Path(folder) / "original"
        store.fetch(source, file, most)
        return store.put(file, "")


# The number of decoding processes is a setting, which is read when there is something to decode.
def _inspect(batch: Batch, store: MediaStore, task: str) -> Batch:
    def inspect(item: Item) -> dict[str, Any]:
        with store.local(item["fetch"]["key"]) as file:
            return sandbox.perform(task, file=str(file))

    return batch.map("inspect", inspect, threads=sandbox.how_many())


def _variants(item: Item[MediaImageUploaded], store: MediaStore) -> dict[str, Any]:
    data = item.data
    with (
        store.local(fetch_image.result(item)["key"]) as file,
        TemporaryDirectory(prefix="runyard-media-") as into,
    ):
        written = sandbox.perform(
            "make variants",
            file=str(file),
            variants=[variant.model_dump() for variant in data.variants],
            focal=data.focal,
            keep=data.keep,
            into=into,
        )
        return {**written, "variants": _stored(written["variants"], Path(into), store)}


def _poster_and_preview(item: Item[MediaVideoUploaded], store: MediaStore) -> dict[str, Any]:
    with (
        store.local(fetch_video.result(item)["key"]) as file,
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


def _stored(files: list[dict[str, Any]], folder: Path, store: MediaStore) -> list[dict[str, Any]]:
    return [
        {**file, **store.put(folder / file["file"], SUFFIXES[file["format"]])} for file in files
    ]


def _recorded(item: Item, kind: str, store: MediaStore, media: Media) -> dict[str, Any]:
    asset = item.key
    fetched, original, variants = item["fetch"], item["inspect"], item["variants"]
    files = [
        {key: value for key, value in file.items() if key != "file" and value is not None}
        for file in variants["variants"]
    ]
    manifest = {
        "id": asset,
        "kind": kind,
        "original": {**fetched, **original},
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
            "original": fetched["key"],
            "bytes": fetched["bytes"],
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
