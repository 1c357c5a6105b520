"""Loads of a REST API, a database and files: what changes, what does not, never a half load."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from dagster import DagsterInstance, materialize

from demo.fake_server import FakeServer, Handler
from resources.email.tables import EmailMessages
from resources.sync import rest_source, source_config
from resources.sync.source_config import SyncMisdeclared
from runyard.store import database
from runyard.testing import Invocation, Yard
from tests.conftest import ROOT, wait_until
from tests.families.syncs import SYNCED
from tests.tables import rows

# Requests leaves a reset connection to the garbage collector.
# The quick tests of syncs are in the files beside this one.
pytestmark = [pytest.mark.slow, *SYNCED]


class Api(FakeServer):
    """A paginated API with one collection that changes."""

    token = "fake-api-token-0123456789"

    def __init__(self) -> None:
        super().__init__()
        self.items: list[dict[str, Any]] = []

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return request.answer(401, {"errors": [{"message": "authorization required"}]})
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        since = int(query.get("start_time", ["0"])[0])
        items = [item for item in self.items if item.get("created", 0) >= since]
        if path == "/etag":
            tag = f'"{len(self.items)}"'
            return (
                request.answer(304)
                if request.headers.get("If-None-Match") == tag
                else request.answer(200, items, headers={"ETag": tag})
            )
        if path == "/linked":
            page = int(query.get("page", ["1"])[0])
            more = (
                {"Link": f'<{self.url}/linked?page={page + 1}>; rel="next"'}
                if page * 2 < len(items)
                else {}
            )
            return request.answer(
                200, {"data": {"items": items[(page - 1) * 2 : page * 2]}}, headers=more
            )
        offset, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["500"])[0])
        return request.answer(200, items[offset : offset + limit])


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with Api() as server:
        monkeypatch.setenv("API_TOKEN", server.token)
        yield server


def rest(api: Api, **table: Any) -> str:
    options = {
        "name": "people",
        "path": "people",
        "key": ["id"],
        "pages": "offset",
        "page_size": 2,
        **table,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    head = f'[[source]]\nname = "crm"\nkind = "rest"\nurl = "{api.url}"\ntoken_env = "API_TOKEN"\n'
    return f'{head}changes = "ask"\n[[source.table]]\n{lines}\n'


def sync(yard: Yard, source: str = "crm", **more: Any) -> Invocation:
    invocation = yard.send("sync/requested", {"source": source, **more}).invocation
    yard.work()
    return invocation


def people(schema: str = "sync_crm", table: str = "people") -> dict[Any, Any]:
    return {row["id"]: row["name"] for row in rows(f"SELECT id, name FROM {schema}.{table}")}


def test_pages_are_merged_by_key_and_recorded(yard: Yard, api: Api, declare: Any) -> None:
    declare(rest(api))
    api.items = [{"id": number, "name": f"n{number}"} for number in range(5)]
    invocation = sync(yard)
    assert invocation.status == "succeeded", invocation
    assert invocation.output["rows"] == {"people": 5}, invocation
    api.items = [{"id": 4, "name": "other"}, {"id": 9, "name": "new"}]
    sync(yard)
    assert people() == {0: "n0", 1: "n1", 2: "n2", 3: "n3", 4: "other", 9: "new"}
    assert [
        (row["source"], row["rows"]) for row in rows("SELECT * FROM app.sync_loads ORDER BY id")
    ] == [("crm", 5), ("crm", 2)]


def test_only_what_is_newer_is_asked_for_and_the_watermark_moves_with_the_load(
    yard: Yard, api: Api, declare: Any
) -> None:
    declare(rest(api, cursor="created", cursor_param="start_time"))
    api.items = [{"id": 1, "name": "a", "created": 100}, {"id": 2, "name": "b", "created": 200}]
    sync(yard)
    api.items += [{"id": 3, "name": "c", "created": 300}]
    api.failures.append(500)
    invocation = sync(yard)
    assert invocation.status == "queued"
    yard.advance("1m")
    assert invocation.status == "succeeded"
    assert sorted(people()) == [1, 2, 3]
    asked = [
        parse_qs(urlsplit(path).query).get("start_time")
        for _, path, _, _ in api.requests
        if "offset=0" in path
    ]
    assert asked == [None, ["200"], ["200"]]


def test_links_etags_and_deletes(yard: Yard, api: Api, declare: Any) -> None:
    api.items = [{"id": number, "name": f"n{number}", "gone": False} for number in range(5)]
    declare(rest(api, path="linked", pages="link", rows="data.items", deleted="gone"))
    assert sync(yard).output["rows"] == {"people": 5}
    api.items[2]["gone"] = True
    sync(yard)
    assert sorted(people()) == [0, 1, 3, 4]
    declare(rest(api, name="tagged", path="etag", pages="single", etag=True))
    first = sync(yard, agree=True)
    assert first.status == "succeeded", first
    assert first.output["rows"] == {"tagged": 5}, first
    assert sync(yard).output["rows"] == {"tagged": 0}
    assert len(people(table="tagged")) == 5


def test_a_changed_schema_is_shown_before_it_is_applied(yard: Yard, api: Api, declare: Any) -> None:
    declare(rest(api))
    api.items = [{"id": 1, "name": "a"}]
    sync(yard)
    api.items = [{"id": 2, "name": "b", "age": 7}]
    looked = sync(yard, preview=True)
    assert looked.output["changes"] == ["new column people.age (bigint)"]
    assert not looked.output["applied"]
    refused = sync(yard)
    assert refused.status == "failed"
    assert "new column people.age (bigint)" in str(refused.steps["load"].error)
    assert people() == {1: "a"}
    assert sync(yard, agree=True).status == "succeeded"
    assert people() == {1: "a", 2: "b"}
    assert sync(yard).status == "succeeded"


@pytest.mark.parametrize(
    ("bound", "status", "said"),
    [
        ("_MOST_PAGE_BYTES", "failed", "ask for smaller pages"),
        ("_PAGE_SECONDS", "queued", "does not answer"),
    ],
)
def test_a_page_has_bounds_of_its_own(
    yard: Yard,
    api: Api,
    declare: Any,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    status: str,
    said: str,
) -> None:
    monkeypatch.setattr(rest_source, bound, 0)
    declare(rest(api))
    api.items = [{"id": 1, "name": "a"}]
    invocation = sync(yard)
    assert invocation.status == status
    assert said in str(invocation.steps["load"].error)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (500, "queued"),
        ("reset", "queued"),
        ("garbage", "queued"),
        ((429, {"Retry-After": "70"}), "queued"),
        (404, "failed"),
    ],
)
def test_faults_of_the_source_leave_the_old_rows(
    yard: Yard, api: Api, declare: Any, failure: Any, status: str
) -> None:
    declare(rest(api))
    api.items = [{"id": number, "name": "old"} for number in range(3)]
    sync(yard)
    api.items = [{"id": number, "name": "new"} for number in range(3)]
    api.failures.extend([None, failure])  # in the second page
    invocation = sync(yard)
    assert invocation.status == status, invocation
    assert set(people().values()) == {"old"}
    if isinstance(failure, tuple):
        assert 69 < (invocation.due - yard.now).total_seconds() <= 70
    if status == "queued":
        yard.advance("2m")
        assert set(people().values()) == {"new"}


def test_a_wrong_token_is_final_and_not_shown(
    yard: Yard, api: Api, declare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(rest(api))
    monkeypatch.setenv("API_TOKEN", "wrong-and-secret")
    invocation = sync(yard)
    assert invocation.status == "failed"
    assert "401" in str(invocation.steps["load"].error)
    assert "wrong-and-secret" not in str(invocation.steps)


def test_a_source_that_is_not_there_or_not_on_is_named(yard: Yard, declare: Any) -> None:
    declare(
        '[[source]]\nname = "off"\nkind = "sql"\nurl_env = "NOT_SET"\n'
        '[[source.table]]\nname = "t"\n'
    )
    assert "set NOT_SET" in str(sync(yard, "off").steps["load"].error)
    assert "there is no source nothing; there are: off" in str(
        sync(yard, "nothing").steps["load"].error
    )


def test_another_database_with_its_deletes(
    yard: Yard, declare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.connection() as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute(
            "CREATE TABLE elsewhere.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
            " name text, updated_at timestamptz, deleted_at timestamptz, secret text)"
        )
        connection.execute(
            "INSERT INTO elsewhere.users (name, updated_at, secret)"
            " SELECT 'u' || n, now() - interval '1 day', 'x' FROM generate_series(1, 1000) AS n"
        )
    monkeypatch.setenv("OTHER_URL", database.database_url())
    declare(
        '[[source]]\nname = "other"\nkind = "sql"\nurl_env = "OTHER_URL"\nschema = "elsewhere"\n'
        '[[source.table]]\nname = "users"\nkey = ["id"]\ncursor = "updated_at"\n'
        'deleted = "deleted_at"\ncolumns = ["id", "name", "updated_at", "deleted_at"]\n'
    )
    assert sync(yard, "other").output["rows"] == {"users": 1000}
    with database.connection() as connection:
        connection.execute(
            "UPDATE elsewhere.users SET name = 'changed', updated_at = now() WHERE name = 'u7'"
        )
        connection.execute(
            "UPDATE elsewhere.users SET deleted_at = now(), updated_at = now() WHERE name = 'u8'"
        )
    assert sync(yard, "other").output["rows"]["users"] <= 3
    names = set(people("sync_other", "users").values())
    assert len(names) == 999
    assert "changed" in names
    assert not {"u7", "u8"} & names
    assert (
        rows(
            "SELECT column_name AS c FROM information_schema.columns"
            " WHERE table_schema = 'sync_other' AND table_name = 'users'"
            " AND column_name = 'secret'"
        )
        == []
    )
    [load] = rows("SELECT watermark FROM app.sync_loads ORDER BY id DESC LIMIT 1")
    assert (datetime.now(UTC) - load["watermark"]).total_seconds() < 60


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_of_every_kind(yard: Yard, declare: Any, tmp_path: Path, kind: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({"id": [1, 2], "name": ["Ada", "Bob"]})
    folder = tmp_path / "files"
    folder.mkdir()
    write = {
        "csv": lambda p: frame.to_csv(p, index=False),
        "jsonl": lambda p: frame.to_json(p, orient="records", lines=True),
        "parquet": lambda p: frame.to_parquet(p),
    }
    write[kind](folder / f"people.{kind}")
    declare(
        f'[[source]]\nname = "drop"\nkind = "files"\nurl = "file://{folder}"\n'
        f'[[source.table]]\nname = "people"\npattern = "*.{kind}"\nformat = "{kind}"\n'
    )
    assert sync(yard, "drop").status == "succeeded"
    assert people("sync_drop") == {1: "Ada", 2: "Bob"}
    frame.drop(0, inplace=True)
    write[kind](folder / f"people.{kind}")
    sync(yard, "drop")
    assert people("sync_drop") == {2: "Bob"}, "without a key the table is replaced"


def test_suppressions_of_sendgrid_reach_the_list(
    yard: Yard, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", api.token)
    monkeypatch.setenv("SENDGRID_API_HOST", api.url)
    EmailMessages().suppress("hand@example.com", "by hand")
    api.items = [
        {"email": "Bounce@Example.com", "created": int(time.time()), "reason": "550"},
        {"email": "hand@example.com", "created": int(time.time())},
    ]
    invocation = sync(yard, "sendgrid")
    assert invocation.status == "succeeded", invocation
    assert rows("SELECT address, reason, source FROM app.suppressions ORDER BY 1") == [
        {"address": "bounce@example.com", "reason": "bounces", "source": "sendgrid"},
        {"address": "hand@example.com", "reason": "by hand", "source": "manual"},
    ]
    assert {urlsplit(path).path for _, path, _, _ in api.requests} == {
        f"/v3/suppression/{name}" for name in ("bounces", "spam_reports", "unsubscribes")
    }


def test_a_kill_in_the_middle_leaves_the_old_rows_and_the_next_load_the_new(
    yard: Yard, api: Api, declare: Any, tmp_path: Path
) -> None:
    declare(rest(api, page_size=1000))
    api.items = [{"id": number, "name": "old"} for number in range(3000)]
    sync(yard)
    api.items = [{"id": number, "name": "new"} for number in range(3000)]
    code = "from resources.sync.tables import Syncs; Syncs().load('crm')"
    for seconds in (0.2, 0.6, 1.0):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ)
        asked = len(api.requests)
        wait_until(lambda asked=asked: len(api.requests) > asked, 30)
        time.sleep(seconds / 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with psycopg.connect(database.database_url()) as connection:
            names = {
                row[0] for row in connection.execute("SELECT name FROM sync_crm.people").fetchall()
            }
        assert len(names) == 1, "half of a load"
    assert sync(yard).status == "succeeded"
    assert set(people().values()) == {"new"}
    assert len(people()) == 3000


def test_each_table_is_an_asset_with_its_rows(
    runyard_database: str, api: Api, declare: Any
) -> None:
    from assets.sync import _of
    from resources.sync.tables import Syncs

    declare(rest(api))
    api.items = [{"id": 1, "name": "a"}]
    asset = _of(source_config.sources()["crm"])
    assert [key.to_user_string() for key in asset.keys] == ["sync_crm/people"]
    with DagsterInstance.ephemeral() as instance:
        [event] = materialize(
            [asset], instance=instance, resources={"syncs": Syncs()}
        ).get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == 1


_SQL = '[[source]]\nname = "a"\nkind = "sql"\nurl = "u"\n[[source.table]]\n'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[source]]\n", "name"),
        ("x = [", "cannot be read"),
        (
            '[[source]]\nname = "a"\nkind = "rest"\nurl = "u"\n[[source.table]]\nname = "t"\n',
            "path is missing",
        ),
        (
            '[[source]]\nname = "a"\nkind = "files"\n[[source.table]]\nname = "t"\npattern = "*"\n',
            "url",
        ),
        (
            f'{_SQL}name = "t"\ncursor = "c"\n',
            "need a key",
        ),
        (
            f'{_SQL}name = "t"\nencoding = "nope"\n',
            "'nope' is not an encoding",
        ),
        (
            f'{_SQL}name = "t"\ntypes = {{ a = "int" }}\n',
            "types.a: Input should be 'text', 'bigint'",
        ),
    ],
)
def test_a_wrong_declaration_is_named(declare: Any, text: str, what: str) -> None:
    declare(text)
    with pytest.raises(SyncMisdeclared, match=what):
        source_config.sources()


def test_a_schedule_sends_the_event_once_a_time(yard: Yard, api: Api, declare: Any) -> None:
    from dagster import build_schedule_context

    from schedules.sync import _schedule

    declare(rest(api))
    schedule = _schedule(source_config.sources()["crm"], "* * * * *")
    with (
        DagsterInstance.ephemeral() as instance,
        build_schedule_context(
            instance, scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC)
        ) as context,
    ):
        schedule.evaluate_tick(context)
        schedule.evaluate_tick(context)
    assert [event.data for event in yard.sent("sync/requested")] == [{"source": "crm"}]
