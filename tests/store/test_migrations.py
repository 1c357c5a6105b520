"""An event table of an earlier version, with events in it, is brought up to date and goes on."""

from alembic import command
from sqlalchemy import text

from runyard import send
from runyard.engine import dispatch
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes import checks, migrate
from runyard.store import database
from tests.conftest import use_database


def test_what_was_queued_before_an_upgrade_is_done_after_it(server: str) -> None:
    use_database(server, "upgraded")
    try:
        [(schema, folder)] = [
            location for location in migrate._locations() if location[0] == "runyard"
        ]
        with migrate._connect() as connection:
            connection.execute(text("DROP SCHEMA runyard CASCADE"))
            connection.execute(text("CREATE SCHEMA runyard"))
            command.upgrade(migrate._config(connection, schema, folder), "0001")
            connection.execute(
                text(
                    "INSERT INTO runyard.functions (name, job, triggers, max_batch, attempts) VALUES ('old', 'old_job', '{old/go}', 10, 3)"
                )
            )
            connection.execute(text("SELECT runyard.send('old/go', '{\"n\": 1}')"))
            connection.commit()
        migrate.migrate()
        send("old/go", {"n": 2})
        claims = dispatch.claim(Function("old", "old_job", ("old/go",), max_batch=10)) or []
        assert [claim.size for claim in claims] == [2]
    finally:
        use_database(server, "store")


def test_what_waits_goes_on_after_a_restore_into_another_cluster(server: str) -> None:
    use_database(server, "restored")
    try:
        made = Function("old", "old_job", ("old/go",), max_batch=10)
        registry._functions, before = {"old": made}, registry._functions
        registry.publish()
        send("old/go")
        [claim] = dispatch.claim(made) or []
        dispatch.begin(claim.batch_id, "run-1")
        asked = {
            "invocation": 1,
            "kind": "event",
            "event": "answer/given",
            "seconds": 600,
            "match_paths": [],
            "match_values": [],
        }
        dispatch.register_waits(claim.batch_id, "run-1", "answer", [asked])
        dispatch.settle(
            claim.batch_id, "run-1", [dispatch.Outcome(1, "waiting", suspended=("answer",))]
        )
        with (
            database.connection() as connection
        ):  # the numbers of a cluster that has seen more transactions
            ahead = "(pg_current_xact_id()::text::bigint + 1000000)::text"
            connection.execute(
                f"UPDATE runyard.watermark SET snapshot = ({ahead} || ':' || {ahead} || ':')::pg_snapshot".encode()
            )
            connection.execute(
                f"UPDATE runyard.waits SET since = ({ahead} || ':' || {ahead} || ':')::pg_snapshot, xid = ({ahead})::xid8".encode()
            )
            connection.execute(f"UPDATE runyard.events SET xid = ({ahead})::xid8".encode())
        assert not checks._check("migrations", checks._migrations).ok
        migrate.migrate()
        assert checks._check("migrations", checks._migrations).ok
        send("answer/given")
        assert dispatch.match_waits() == 1
    finally:
        registry._functions = before
        use_database(server, "store")
