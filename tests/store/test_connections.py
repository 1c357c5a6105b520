"""Ways to reach the database: a role named like a schema, its own schema, and a pooler."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from dagster import DagsterInstance
from pydantic import SecretStr

from runyard import send
from runyard.dagster_adapter.tick_retention import TickRetention
from runyard.engine import batch_claims
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.processes.schema_check import check_migrated
from runyard.settings import Settings, settings
from runyard.store import database
from runyard.store.embedded_access import ROLE, SUPERUSER
from tests.conftest import Publish, use_database
from tests.servers import pgbouncer

_DAGSTERS = (
    b"SELECT DISTINCT table_schema::text AS schema FROM information_schema.tables"
    b" WHERE table_name = 'event_logs' ORDER BY 1"
)


@contextmanager
def using(monkeypatch: pytest.MonkeyPatch, url: str, direct: str | None = None) -> Iterator[None]:
    """Let this process use another database."""
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        if direct is not None:
            patch.setenv("RUNYARD_DIRECT_DATABASE_URL", direct)
        database.close_pool()
        settings.cache_clear()
        yield
    database.close_pool()
    settings.cache_clear()


@pytest.fixture
def new(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of the parameter's role, with the default search path."""
    role = getattr(request, "param", "apart")
    with psycopg.connect(
        server.replace(f"//{ROLE}@", f"//{SUPERUSER}@"), autocommit=True
    ) as connection:
        connection.execute("DROP DATABASE IF EXISTS apart WITH (FORCE)")
        if role != ROLE:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())
            connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        connection.execute(f"CREATE DATABASE apart OWNER {role}".encode())
        connection.execute(
            f'ALTER ROLE {role} IN DATABASE apart SET search_path = "$user", public'.encode()
        )
        yield server.replace("/runyard?", "/apart?").replace(f"//{ROLE}@", f"//{role}@")
        database.close_pool()
        connection.execute("DROP DATABASE apart WITH (FORCE)")
        if role != ROLE:
            connection.execute(f"DROP ROLE {role}".encode())


def schemas(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [str(row[0]) for row in connection.execute(_DAGSTERS).fetchall()]


@pytest.mark.parametrize("new", ["runyard", "app"], indirect=True)
def test_a_role_that_is_called_like_a_schema_migrates_twice_and_uses_the_tables(
    new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(monkeypatch, new):
        migrate()
        migrate()
        check_migrated()
        assert schemas(new) == ["public"]
        assert len(send("greet/requested", {})) == 1


@pytest.mark.parametrize("new", ["runyard"], indirect=True)
def test_dagsters_own_commands_find_the_tables_of_such_a_role(
    new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(monkeypatch, new):
        migrate()
        code = (
            "from dagster import DagsterInstance\n"
            "with DagsterInstance.get() as instance: print(len(instance.get_runs()))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code],
            env=_given_by_env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert said.stdout == "0\n", said.stderr


def _given_by_env() -> dict[str, str]:
    import os

    from runyard.processes.stack import environment

    return {**os.environ, **environment(database.database_url())}


@pytest.mark.parametrize("new", ["alice"], indirect=True)
def test_a_schema_with_the_roles_name_created_later_hides_no_tables(
    new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(monkeypatch, new):
        migrate()
        with psycopg.connect(new, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA alice")
        migrate()
        assert schemas(new) == ["public"]


@pytest.fixture
def elsewhere(new: str) -> str:
    """The URL of a new database that leads to a schema of its own."""
    with psycopg.connect(new, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
    return new + "&options=" + quote("-c search_path=elsewhere")


def test_dagsters_tables_in_an_earlier_versions_schema_are_not_created_again(
    new: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(monkeypatch, elsewhere):
        migrate()
    with (
        using(monkeypatch, new),
        pytest.raises(RunyardError, match=r"options=-csearch_path%3Delsewhere"),
    ):
        migrate()
    assert schemas(new) == ["elsewhere"]


def test_ticks_are_purged_where_dagsters_tables_are(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(monkeypatch, elsewhere):
        migrate()
        with DagsterInstance.get() as instance:
            assert TickRetention().purge(instance) == 0


def test_what_a_url_says_of_its_own_stays() -> None:
    url = database._complete(
        "postgres://me:p@ss?w@h1:1,h2:2/db?keepalives_idle=7&options=-c%20search_path%3Dmine&sslmode=require"
    )
    assert url.startswith("postgresql://me:p@ss?w@h1:1,h2:2/db?") or "search_path%3Dmine" in url
    assert "keepalives_idle=7" in url
    assert "sslmode=require" in url
    assert url.count("search_path") == 1


def test_a_peer_that_has_gone_without_a_word_is_missed_by_both_sides() -> None:
    with database.connection() as connection:
        given = connection.info.get_parameters()
        shown = connection.execute(
            "SELECT setting FROM pg_settings WHERE name = 'tcp_keepalives_idle'"
            " AND source = 'client'"
        ).fetchone()
    assert {"keepalives_idle": "10", "tcp_user_timeout": "30000"}.items() <= given.items()
    assert shown is not None


def test_a_host_that_never_answers_is_given_up_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with (
            using(monkeypatch, f"postgresql://me@{host}:{port}/db?sslmode=disable"),
            pytest.raises(psycopg.errors.ConnectionTimeout),
        ):
            psycopg.connect(database.database_url())


def test_dagsters_pooled_connections_have_the_keepalives_too(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import text

    from runyard.dagster_adapter.internals import _pooled_engine

    engine = _pooled_engine(database.database_url(), 1)
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        assert "tcp_user_timeout=30000" in raw.dsn
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "1min"
        assert connection.execute(text("SHOW search_path")).scalar_one() == "public"
    engine.dispose()


@pytest.mark.slow
def test_through_a_pooler_events_are_sent_claimed_and_migrated_and_no_session_keeps_anything(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish_functions: Publish
) -> None:
    straight = use_database(server, "store")
    # The pool has two server connections, so that consecutive statements may use different ones.
    with (
        pgbouncer(tmp_path, straight, pool_size=2) as through,
        using(monkeypatch, through, straight),
    ):
        migrate()
        check_migrated()
        greet = Function("greet", "greet_job", ("greet/requested",), max_batch=10)
        publish_functions(greet)
        for n in range(20):
            send("greet/requested", {"n": n})
        claims = [claim for _ in range(4) for claim in batch_claims.claim(greet) or []]
        assert sum(claim.size for claim in claims) == 20
        with database.connection() as connection:
            assert connection.execute(
                "SELECT count(*) AS n FROM pg_prepared_statements"
            ).fetchone() == {"n": 0}
            assert connection.execute(
                "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory'"
            ).fetchone() == {"n": 0}
            assert connection.execute("SHOW lock_timeout").fetchone() == {"lock_timeout": "0"}


@pytest.mark.slow
def test_a_pooler_without_a_way_around_it_is_refused_with_the_setting_that_is_missing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = use_database(server, "store")
    with (
        pgbouncer(tmp_path, straight) as through,
        using(monkeypatch, through),
        pytest.raises(DatabaseUnavailable, match="RUNYARD_DIRECT_DATABASE_URL"),
    ):
        migrate()


@pytest.mark.slow
@pytest.mark.parametrize("new", ["app"], indirect=True)
def test_a_pooler_that_leads_such_a_role_to_another_schema_is_refused_with_what_is_to_be_done(
    new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pgbouncer(tmp_path, new) as through, using(monkeypatch, through, new):
        with pytest.raises(RunyardError, match='ALTER ROLE "app" SET search_path = public'):
            migrate()
        with psycopg.connect(new, autocommit=True) as connection:
            connection.execute("ALTER ROLE app IN DATABASE apart SET search_path = public")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'apart'"
                " AND pid <> pg_backend_pid()"
            )
        migrate()
        check_migrated()


@pytest.mark.slow
def test_a_migration_through_a_pooler_leaves_no_lock_in_its_sessions(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = use_database(server, "store")
    with pgbouncer(tmp_path, straight, more="ignore_startup_parameters = options") as through:
        with using(monkeypatch, through):
            migrate()
            migrate()
        with psycopg.connect(straight) as connection:
            assert connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            ).fetchone() == (0,)


def test_the_way_around_a_pooler_without_a_pooler_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("RUNYARD_DIRECT_DATABASE_URL", "postgresql://h/db")
    settings.cache_clear()
    with pytest.raises(ValueError, match="DATABASE_URL"):
        settings()
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.parametrize(
    ("url", "embedded"),
    [
        ("postgresql://runyard@/runyard?host={folder}&port=5432", True),
        ("postgresql://runyard@/shop?host={folder}&port=5432", False),
        ("postgresql://runyard@/runyard?host=/elsewhere&port=5432", False),
        ("postgresql://runyard@db.example/runyard", False),
    ],
)
def test_a_url_of_the_embedded_database_is_known_as_such_while_its_server_is_stopped(
    tmp_path: Path, url: str, embedded: bool
) -> None:
    at = url.format(folder=quote(str(tmp_path)))
    assert (
        database.is_embedded(
            Settings(home=tmp_path, postgres_folder=tmp_path, database_url=SecretStr(at))
        )
        is embedded
    )


@pytest.mark.parametrize("password", ["p[w", "p]w", "p%5Bw", "p\u2100w"])
def test_a_url_that_only_libpq_can_read_is_taken_as_it_is(tmp_path: Path, password: str) -> None:
    of = Settings(
        home=tmp_path,
        postgres_folder=tmp_path,
        database_url=SecretStr(f"postgresql://shop:{password}@db.example/shop"),
    )
    assert not database.is_embedded(of)
    assert database.database_url(of).startswith(f"postgresql://shop:{password}@db.example/shop?")


def test_what_database_url_says_of_the_embedded_database_holds(server: str) -> None:
    given = f"{server}&application_name=shop&options=-csearch_path%3Dmine".replace(
        "//runyard@", "//postgres@"
    )
    folder = Path(psycopg.conninfo.conninfo_to_dict(server)["host"])
    url = database.database_url(Settings(postgres_folder=folder, database_url=SecretStr(given)))
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT current_user, current_setting('search_path'),"
            " current_setting('application_name')"
        ).fetchone()
    assert row == ("postgres", "mine", "shop")
