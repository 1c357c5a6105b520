"""What the tests of syncs share: declarations of sources, a load, and what it has stored."""

import json
from pathlib import Path
from typing import Any

import pytest

from demo.fake_server import FakeServer, Handler
from runyard.testing import Invocation, Yard
from tests.tables import rows

SYNCED = [
    pytest.mark.usefixtures("no_synced_tables"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


class RawApi(FakeServer):
    """Answers with the given bytes."""

    body: bytes = b"[]"
    content_type = "application/json"

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        request.answer(200, self.body, headers={"Content-Type": self.content_type})


def table(**options: Any) -> str:
    """A table's declaration."""
    return "[[source.table]]\n" + "".join(
        f"{name} = {_toml(value)}\n" for name, value in {"name": "people", **options}.items()
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(
                f"{json.dumps(k, ensure_ascii=False)} = {_toml(v)}" for k, v in value.items()
            )
            + " }"
        )
    return json.dumps(value, ensure_ascii=False)


def load(yard: Yard, **more: Any) -> Invocation:
    invocation = yard.send("sync/requested", {"source": "s", **more}).invocation
    yard.work()
    return invocation


def refusal(invocation: Invocation) -> str:
    """The message of a refusal, which is final after one attempt."""
    assert (invocation.status, invocation.attempt) == ("failed", 1), invocation
    return str(invocation.steps["load"].error["message"])


def kinds(name: str = "people") -> dict[str, str]:
    columns = rows(
        "SELECT attname AS name, format_type(atttypid, atttypmod) AS kind FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND attname NOT LIKE '\\_dlt%%'"
        " ORDER BY attnum",
        f"sync_s.{name}",
    )
    return {row["name"]: row["kind"] for row in columns}


def texts(name: str = "people") -> list[dict[str, str | None]]:
    """The rows with each value as PostgreSQL writes it."""
    stored = rows(
        "SELECT (SELECT jsonb_object_agg(key, value) FROM jsonb_each_text(to_jsonb(t))) AS row"
        f" FROM sync_s.{name} AS t"
    )
    kept = [
        {key: value for key, value in row["row"].items() if not key.startswith("_dlt")}
        for row in stored
    ]
    return sorted(kept, key=lambda row: int(row.get("id") or 0))


def files(folder: Path, **options: Any) -> str:
    return f'[[source]]\nname = "s"\nkind = "files"\nurl = "file://{folder}"\n' + table(
        **{"pattern": "*", **options}
    )


def rest(api: RawApi, **options: Any) -> str:
    source = '[[source]]\nname = "s"\nkind = "rest"\nurl = "{}"\nchanges = "{}"\n'
    changes = options.pop("changes", "apply")
    return source.format(api.url, changes) + table(**{"path": "people", "key": ["id"], **options})
