"""An event table of an earlier version, with events in it, is brought up to date and goes on."""

from alembic import command
from sqlalchemy import text

from runyard import dispatch, send
from runyard.registry import Function
from runyard.store import migrate
from tests.conftest import use_database


def test_what_was_queued_before_an_upgrade_is_done_after_it(server: str) -> None:
    use_database(server, "upgraded")
    try:
        [(schema, folder)] = [location for location in migrate._locations() if location[0] == "runyard"]
        with migrate._connect() as connection:
            connection.execute(text("DROP SCHEMA runyard CASCADE"))
            connection.execute(text("CREATE SCHEMA runyard"))
            command.upgrade(migrate._config(connection, schema, folder), "0001")
            connection.execute(text("INSERT INTO runyard.functions (name, job, triggers, max_batch, attempts) VALUES ('old', 'old_job', '{old/go}', 10, 3)"))
            connection.execute(text("SELECT runyard.send('old/go', '{\"n\": 1}')"))
            connection.commit()
        migrate.migrate()
        send("old/go", {"n": 2})
        claims = dispatch.claim(Function("old", "old_job", ("old/go",), max_batch=10)) or []
        assert [claim.size for claim in claims] == [2]
    finally:
        use_database(server, "store")
