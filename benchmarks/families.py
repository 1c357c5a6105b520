"""The project's families: media, analytics, sync and retention."""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runyard import clock
from runyard.engine import retention
from runyard.processes.migrate import migrate
from runyard.store import database
from runyard.syntax.retention_policy import Retention

_PICTURES = 12
_VARIANTS: list[dict[str, Any]] = [
    *({"width": width, "format": "webp"} for width in (320, 640, 1280, 1920)),
    {"width": 1280, "format": "jpeg"},
]
DAY_EVENTS = 1_000_000
SYNC_ROWS = 10_000_000
DAYS, EVENTS_A_DAY, KEPT_DAYS = 60, 100_000, 14


def media() -> dict[str, Any]:
    """Images a second for a 12-megapixel JPEG in five variants, and posters and previews of videos.

    A plain Pillow loop and libvips make the same files in this call. The video has five seconds in
    1280 x 720.
    """
    from demo import sample_media
    from resources.media import preview_codecs, sandbox

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        file.write_bytes(sample_media.jpeg(sample_media.photo(4000, 3000), quality=90))
        ours = _files_a_second(
            lambda into: sandbox.perform(
                "make variants",
                file=str(file),
                variants=_VARIANTS,
                focal=[0.5, 0.5],
                keep=[],
                into=into,
            ),
            2,
        )
        film = Path(folder) / "film.mp4"
        sample_media.video(film, 5, 1280, 720)
        previews = _files_a_second(
            lambda into: sandbox.perform(
                "preview video", file=str(film), into=into, codec=preview_codecs.chosen()
            ),
            2,
        )
        sandbox.close()
        pillow = _files_a_second(lambda into: _plain_pillow(file, Path(into)), 1)
        vips = _files_a_second(lambda into: _libvips(file, Path(into)), 2)
        megabytes = file.stat().st_size / 1e6
    return {
        "images_per_s": ours,
        "mb_per_s": round(ours * megabytes, 1),
        "times_plain_pillow": round(ours / pillow, 2),
        "times_libvips": round(ours / vips, 2),
        "previews_per_s": previews,
    }


def _files_a_second(make: Any, threads: int) -> float:
    def once(_: int) -> None:
        with tempfile.TemporaryDirectory() as into:
            make(into)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(once, range(threads)))  # The first is not measured.
        began = time.monotonic()
        list(pool.map(once, range(_PICTURES)))
        return round(_PICTURES / (time.monotonic() - began), 2)


def _plain_pillow(file: Path, into: Path) -> None:
    """The obvious way: each variant from the original."""
    from PIL import Image, ImageOps

    for number, wanted in enumerate(_VARIANTS):
        with Image.open(file) as image:
            picture = ImageOps.exif_transpose(image)
            picture.thumbnail(
                (wanted["width"], 100_000), Image.Resampling.LANCZOS, reducing_gap=None
            )
            if wanted["format"] == "jpeg":
                picture.save(
                    into / f"{number}.jpg", "JPEG", quality=82, progressive=True, optimize=True
                )
            else:
                picture.save(into / f"{number}.webp", "WEBP", quality=80, method=2)


def _libvips(file: Path, into: Path) -> None:
    import pyvips

    for number, wanted in enumerate(_VARIANTS):
        picture = pyvips.Image.thumbnail(str(file), wanted["width"], height=100_000)
        if wanted["format"] == "jpeg":
            picture.jpegsave(
                str(into / f"{number}.jpg"), Q=82, interlace=True, optimize_coding=True, strip=True
            )
        else:
            picture.webpsave(str(into / f"{number}.webp"), Q=80, effort=2, strip=True)


def analytics() -> dict[str, Any]:
    """A day of a million events and invocations: seconds until all six tables contain it."""
    from assets.analytics import ROLLUPS, span
    from resources.analytics.tables import RollupTables

    migrate()
    day = datetime.now(UTC).date() - timedelta(days=1)
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.events (id, name, source, ts, received_at, target)"
            " SELECT lpad(n::text, 26, '0'), 'bench/' || n %% 40, 'sql', at, at, 'nobody'"
            " FROM generate_series(1, %s) AS n,"
            " LATERAL (SELECT %s::date::timestamp AT TIME ZONE 'UTC' + n * interval '86 ms' AS at)"
            " AS times",
            (DAY_EVENTS, day),
        )
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, attempt, created_at,"
            " started_at, finished_at)"
            " SELECT id, 'function_' || right(id, 2)::integer % 20,"
            " CASE WHEN random() < 0.01 THEN 'failed' ELSE 'succeeded' END, 1, ts,"
            " ts + random() * interval '1 s', ts + interval '1 s' + random() * interval '5 s'"
            " FROM runyard.events WHERE source = 'sql'"
        )
        connection.execute("VACUUM ANALYZE runyard.events, runyard.invocations")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ANALYTICS_FOLDER"] = folder
        for rollup in ROLLUPS:
            RollupTables().replace(rollup.name, day, rollup.rows(*span(day)))
    return {"seconds_for_1e6_events": round(time.monotonic() - began, 2)}


def sync() -> dict[str, Any]:
    """Ten million rows from another database: rows a second, and peak memory in MB."""
    with database.connection() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS elsewhere")
        connection.execute("DROP TABLE IF EXISTS elsewhere.rows")
        connection.execute(
            "CREATE TABLE elsewhere.rows AS SELECT n AS id, 'name ' || n AS name,"
            " now() AS updated_at FROM generate_series(1, %s) AS n",
            (SYNC_ROWS,),
        )
    migrate()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sync.toml").write_text(
            '[[source]]\nname = "bench"\nkind = "sql"\nurl_env = "DATABASE_URL"\n'
            'schema = "elsewhere"\n[[source.table]]\nname = "rows"\n'
        )
        variables = {
            **os.environ,
            "SYNC_SOURCES": f"{folder}/sync.toml",
            "SYNC_FOLDER": f"{folder}/work",
        }
        # Not ru_maxrss: in a child it starts at its parent's peak.
        memory = (
            "next(line.split()[1] for line in open('/proc/self/status')"
            " if line.startswith('VmHWM'))"
        )
        code = (
            f"from resources.sync.tables import Syncs; print(Syncs().load('bench').rows, {memory})"
        )
        began = time.monotonic()
        said = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]
        seconds = time.monotonic() - began
    with database.connection() as connection:
        row = connection.execute("SELECT count(*) AS n FROM sync_bench.rows").fetchone()
    assert row is not None
    assert row["n"] == SYNC_ROWS, f"{row} of {SYNC_ROWS} rows are there"
    return {
        "rows_per_s": round(SYNC_ROWS / seconds),
        "most_memory_mb": round(int(said.split()[-1]) / 1024),
    }


def keep() -> dict[str, Any]:
    """Growth of the tables under retention: the last month against the end of the first period.

    Sixty simulated days of 100,000 events each, with a retention of fourteen days.
    """
    migrate()
    sizes: list[int] = []
    policy, began, swept = Retention.parse(f"{KEPT_DAYS}d"), datetime.now(UTC), 0.0
    with database.connection() as connection:
        connection.execute("TRUNCATE runyard.events, runyard.invocations, runyard.steps")
        connection.execute(
            "INSERT INTO runyard.functions (name, job, triggers, max_batch, attempts, active)"
            " VALUES ('kept', 'kept', '{}', 500, 5, false) ON CONFLICT DO NOTHING"
        )
    try:
        for number in range(DAYS):
            clock.freeze(began + timedelta(days=number))
            database.close_pool()
            with database.connection() as connection:
                connection.execute(
                    "INSERT INTO runyard.events (name, data, target)"
                    " SELECT 'bench/kept', jsonb_build_object('n', n, 'text', repeat('x', 200)),"
                    " 'nobody' FROM generate_series(1, %s) AS n",
                    (EVENTS_A_DAY,),
                )
                connection.execute(
                    "WITH added AS (INSERT INTO runyard.invocations (event_id, function, status,"
                    " started_at, finished_at)"
                    " SELECT id, 'kept', 'succeeded', runyard.now(), runyard.now()"
                    " FROM runyard.events WHERE received_at >= runyard.now() - interval '1 h'"
                    " RETURNING id)"
                    " INSERT INTO runyard.steps (invocation_id, step, attempt, output, started_at,"
                    " finished_at)"
                    " SELECT id, step, 1, to_jsonb(repeat('y', 100)), runyard.now(), runyard.now()"
                    " FROM added, unnest('{first,second,third}'::text[]) AS step"
                )
            clock.freeze(began + timedelta(days=number + 1))
            database.close_pool()
            at = time.monotonic()
            retention.sweep(retention=policy)
            retention.vacuum()
            swept = max(swept, time.monotonic() - at)
            with database.connection() as connection:
                row = connection.execute(
                    "SELECT sum(pg_total_relation_size('runyard.' || name))::bigint AS bytes"
                    " FROM unnest('{events,invocations,steps}'::text[]) AS name"
                ).fetchone()
            assert row is not None
            sizes.append(int(str(row["bytes"])))
    finally:
        clock.freeze(None)
        database.close_pool()
    reached = max(sizes[KEPT_DAYS : KEPT_DAYS + 7])
    return {
        "growth_after_retention": round(max(sizes[30:]) / reached, 3),
        "megabytes": round(max(sizes) / 1e6),
        "longest_sweep_s": round(swept, 1),
    }
