"""Old data are deleted, others stay; a dry run deletes nothing; the database stays flat."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, Definitions, materialize

from assets.maintenance import system_report
from pipelines import maintenance
from resources.email.tables import EmailMessages
from resources.media.store import MediaStore
from resources.media.tables import Media
from resources.webhooks.tables import event_of
from runyard import Event, clock, send
from runyard.dagster_adapter import run_retention
from runyard.engine import retention
from runyard.errors import InvalidOption
from runyard.settings import settings
from runyard.store import database
from runyard.syntax.retention_policy import Retention
from runyard.testing import Yard
from tests.conftest import wait_until
from tests.tables import rows

TABLES = ("events", "invocations", "steps", "run_segments", "progress", "batches", "waits")


def counts() -> dict[str, int]:
    return {table: rows(f"SELECT count(*) AS n FROM runyard.{table}")[0]["n"] for table in TABLES}


def launch(name: str, **config: Any) -> dict[str, Any]:
    """Run a maintenance job; return the metadata of its op."""
    found = next(job for job in maintenance.jobs if job.name == name)
    op = found.nodes[0].name
    with DagsterInstance.ephemeral() as instance:
        definitions = Definitions(
            jobs=[found],
            resources={"messages": EmailMessages(), "store": MediaStore(), "media": Media()},
        )
        result = definitions.get_job_def(name).execute_in_process(
            instance=instance, run_config={"ops": {op: {"config": config}}}
        )
        [output] = [event for event in result.all_node_events if event.is_successful_output]
        return {key: value.value for key, value in output.step_output_data.metadata.items()}


def test_events_go_after_their_time_with_all_that_came_of_them(yard: Yard) -> None:
    yard.send("content/generate.requested", {"topic": "old", "length": 100})
    yard.send("nobody/waits", {})
    yard.work()
    rows(
        "INSERT INTO runyard.run_segments (invocation_id, run_id, status)"
        " VALUES (1, 'run', 'queued') RETURNING id"
    )
    yard.advance("31d")
    yard.send("content/generate.requested", {"topic": "new", "length": 100})
    yard.work()
    before = counts()
    assert launch("sweep_events", dry_run=True)["invocations"] == 1
    assert counts() == before
    shown = launch("sweep_events")
    assert shown["invocations"] == 1
    assert shown["events"] >= 2
    left = counts()
    assert left["invocations"] == 1
    assert 0 < left["steps"] < before["steps"]
    assert 0 < left["progress"] < before["progress"]
    assert (before["run_segments"], left["run_segments"]) == (1, 0)
    assert rows(
        "SELECT data->>'topic' AS topic FROM runyard.events WHERE name NOT LIKE 'runyard/%%'"
    ) == [{"topic": "new"}]


def test_what_sleeps_or_is_due_later_stays_however_old(yard: Yard) -> None:
    sleeping = yard.send(
        "user/created", {"user": "ada", "email": "ada@example.com", "name": "Ada"}
    ).invocation
    yard.work()
    clock.freeze(yard.now + timedelta(days=400))
    database.close_pool()
    assert retention.sweep().rows.get("invocations", 0) == 1, (
        "the welcome mail's, not that of the function which sleeps"
    )
    assert sleeping.status == "sleeping"
    assert [row["name"] for row in rows("SELECT name FROM runyard.events")] == ["user/created"]


def test_an_idempotency_key_lasts_24_hours_however_short_the_retention(yard: Yard) -> None:
    yard.send("nobody/waits", {}, id="order-7")
    yard.send("nobody/waits", {})
    yard.advance("3h")
    assert retention.sweep(retention=Retention.parse("1h")).rows["events"] == 1
    yard.send("nobody/waits", {}, id="order-7")
    assert len(yard.sent("nobody/waits")) == 1
    yard.advance("22h")
    assert retention.sweep(retention=Retention.parse("1h")).rows["events"] == 1


def test_what_is_taken_up_again_while_it_is_deleted_stays(yard: Yard) -> None:
    invocation = yard.send("content/generate.requested", {"topic": "old", "length": 100}).invocation
    yard.work()
    yard.advance("31d")
    swept: list[retention.Swept] = []
    sweeping = threading.Thread(target=lambda: swept.append(retention.sweep()))
    with database.transaction() as connection:
        connection.execute(
            "UPDATE runyard.invocations SET status = 'queued', finished_at = NULL WHERE id = %s",
            (invocation.id,),
        )
        sweeping.start()
        waiting = (
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query LIKE '%%DELETE FROM runyard.invocations%%'"
            " AND datname = current_database()"
        )
        assert wait_until(lambda: rows(waiting) or not sweeping.is_alive())
    sweeping.join()
    assert swept[0].rows["invocations"] == 0
    assert (invocation.status, bool(invocation.steps)) == ("queued", True)


def test_a_function_has_a_time_of_its_own(yard: Yard) -> None:
    yard.send("contact/submitted", {"name": "G", "email": "g@example.com", "message": "Hello"})
    yard.advance("3d")
    shown = launch("sweep_events", retention="30d, send_email=1d")
    assert shown["invocations"] == 2
    assert [row["function"] for row in rows("SELECT function FROM runyard.invocations")] == [
        "notify_contact"
    ]


@pytest.mark.parametrize("text", ["", "30", "30d, send_email", "tomorrow", "1s", "30d, a=b"])
def test_a_time_that_cannot_be_read_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="RUNYARD_RETENTION"):
        Retention.parse(text or "x")
    monkeypatch.setenv("RUNYARD_RETENTION", text or "x")
    settings.cache_clear()
    with pytest.raises(ValueError, match="RUNYARD_RETENTION"):
        settings()
    monkeypatch.undo()
    settings.cache_clear()


def test_forever_is_forever(yard: Yard) -> None:
    send("nobody/waits", {})
    yard.advance("300d")
    assert retention.sweep(retention=Retention.parse("forever")).rows == {}


def test_dagsters_runs_go(runyard_database: str) -> None:
    with DagsterInstance.ephemeral() as instance:
        definitions = Definitions(
            jobs=maintenance.jobs,
            resources={"messages": EmailMessages(), "store": MediaStore(), "media": Media()},
        )
        definitions.get_job_def("sweep_suppressions").execute_in_process(instance=instance)
        assert run_retention.sweep_runs(instance).rows == {}
        try:
            clock.freeze(datetime.now(UTC) + timedelta(days=31))
            database.close_pool()
            assert run_retention.sweep_runs(instance, dry_run=True).rows == {"runs": 1}
            assert instance.get_runs_count() == 1
            assert run_retention.sweep_runs(instance).rows == {"runs": 1}
            assert instance.get_runs_count() == 0
        finally:
            clock.freeze(None)
            database.close_pool()


def test_old_mails_and_media_without_an_asset_go(runyard_database: str, tmp_path: Path) -> None:
    store, outbox = MediaStore(), Path(os.environ["MAIL_OUTBOX"])
    outbox.mkdir()
    for name, age in (("old.eml", 40), ("new.eml", 1)):
        (outbox / name).write_text("x")
        os.utime(outbox / name, (time.time() - age * 86_400,) * 2)
    (tmp_path / "file").write_bytes(b"orphan")
    key = store.put(tmp_path / "file", ".webp")["key"]
    os.utime(store.root / key, (time.time() - 2 * 86_400,) * 2)
    assert launch("sweep_files", dry_run=True) == {
        "dry run": True,
        "mails": 1,
        "payloads": 0,
        "media": 1,
        "media bytes": 6,
    }
    assert (store.root / key).exists()
    assert (outbox / "old.eml").exists()
    launch("sweep_files")
    assert not (store.root / key).exists()
    assert [path.name for path in outbox.iterdir()] == ["new.eml"]


def test_media_of_an_asset_stay(yard: Yard, tmp_path: Path) -> None:
    from demo import sample_media

    uploads = Path(os.environ["MEDIA_UPLOADS"])
    uploads.mkdir()
    (uploads / "p").write_bytes(sample_media.jpeg(sample_media.photo(60, 40)))
    found = yard.send(
        "media/image.uploaded", {"source": "p", "variants": [{"width": 30}]}
    ).invocation
    yard.work()
    assert found.status == "succeeded"
    assert Media().orphans(MediaStore(), time.time() + 10) == []


def test_a_suppression_ends_at_its_time(runyard_database: str) -> None:
    messages = EmailMessages()
    messages.suppress("a@example.com", "for ever")
    messages.suppress("b@example.com", "for a while", datetime.now(UTC) - timedelta(seconds=1))
    assert messages.suppressed(["a@example.com", "b@example.com"]) == {"a@example.com"}
    assert launch("sweep_suppressions", dry_run=True)["addresses"] == 1
    assert len(rows("SELECT 1 FROM app.suppressions")) == 2
    assert launch("sweep_suppressions")["addresses"] == 1
    assert rows("SELECT address FROM app.suppressions") == [{"address": "a@example.com"}]


def test_the_report_shows_what_is_stuck_and_how_large_everything_is(yard: Yard) -> None:
    yard.send("contact/submitted", {"name": "G", "email": "g@example.com", "message": "Hello"})
    clock.freeze(yard.now + timedelta(hours=2))
    database.close_pool()
    with DagsterInstance.ephemeral() as instance:
        result = materialize([system_report], instance=instance)
        [made] = result.asset_materializations_for_node("system_report")
    shown = {key: value.value for key, value in made.metadata.items()}
    assert shown["overdue invocations"] == 1
    assert "| notify_contact | queued | 1 |" in shown["overdue"]
    assert "runyard.events" in shown["tables"]
    assert shown["bytes"] > 0


def test_the_database_stays_flat_after_its_retention_time(yard: Yard) -> None:
    """Sixty days with a retention of two weeks do not grow the tables beyond the first deletion."""
    policy, sizes = Retention.parse("14d"), []
    for _ in range(60):
        send(
            [
                Event(
                    "email/send.requested",
                    {"to": ["a@example.com"], "subject": "S", "text": "T" * 200},
                )
                for _ in range(400)
            ]
        )
        with database.connection() as connection:
            connection.execute(
                """
                INSERT INTO runyard.steps
                    (invocation_id, step, attempt, output, started_at, finished_at)
                SELECT id, step, 1, to_jsonb(repeat('x', 200)), runyard.now(), runyard.now()
                FROM runyard.invocations, unnest('{prepare,send,track}'::text[]) AS step
                WHERE status = 'queued'"""
            )
            connection.execute(
                "UPDATE runyard.invocations SET status = 'succeeded', started_at = runyard.now(),"
                " finished_at = runyard.now() WHERE status = 'queued'"
            )
        clock.freeze(clock.now() + timedelta(days=1))
        database.close_pool()
        retention.sweep(retention=policy)
        with database.connection() as connection:
            for table in ("events", "invocations", "steps"):
                connection.execute(f"VACUUM runyard.{table}".encode())
        size = (
            "SELECT sum(pg_total_relation_size('runyard.' || name))::bigint AS bytes"
            " FROM unnest('{events,invocations,steps}'::text[]) AS name"
        )
        sizes.append(rows(size)[0]["bytes"])
    assert (
        rows("SELECT count(*) AS n FROM runyard.events WHERE name = 'email/send.requested'")[0]["n"]
        == 14 * 400
    )
    assert max(sizes[30:]) <= 1.1 * max(sizes[14:20]), sizes


def large_push(delivery: str) -> None:
    """A GitHub delivery that is too large for an event."""
    with database.transaction() as connection:
        event_of(
            connection, "github/push", {"ref": "main", "commits": ["x" * 100] * 6000}, delivery
        )


def test_payloads_beside_their_events_go_when_no_event_may_need_them(yard: Yard) -> None:
    large_push("github-old")
    yard.advance("31d")
    large_push("github-new")
    assert launch("sweep_files", dry_run=True)["payloads"] == 1
    assert launch("sweep_files", retention="30d, send_email=90d")["payloads"] == 0
    assert launch("sweep_files", retention="30d, send_email=forever")["payloads"] == 0
    assert launch("sweep_files")["payloads"] == 1
    assert rows("SELECT id FROM app.webhook_payloads") == [{"id": "github-new"}]


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("30d", 30),
        ("30d, a=2d", 30),
        ("30d, a=90d", 90),
        ("30d, a=forever", None),
        ("forever", None),
        ("a=2d", None),
    ],
)
def test_what_serves_every_function_is_kept_as_long_as_any(text: str, days: int | None) -> None:
    now = datetime.now(UTC)
    assert Retention.parse(text).all_before(now) == (
        None if days is None else now - timedelta(days=days)
    )
