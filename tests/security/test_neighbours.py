"""Another user of the same machine can reach neither database, nor folders, nor sockets.

As root the tests try as the user `nobody`; an ordinary user cannot, and checks the modes instead.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import psycopg2
import pytest

from resources.email.mailer import Mail, OutboxMailer
from resources.media.store import MediaStore
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.processes.migrate import migrate
from runyard.processes.schema_check import check_migrated
from runyard.processes.stack import Stack
from runyard.processes.stack_files import socket_path
from runyard.settings import Settings, settings
from runyard.store import database
from runyard.store.data_folder import data_folder
from runyard.store.embedded import (
    delete_embedded,
    embedded_url,
    start_embedded,
    stop_embedded,
    why_elsewhere,
)
from runyard.store.embedded_programs import run_program, server_uid
from runyard.store.private_folders import (
    check_above,
    delete_short_folder,
    private_folder,
    short_folder,
)
from tests.conftest import ROOT
from tests.web_process import WebProcess

NOBODY = 65534
AS_ROOT = os.geteuid() == 0
LONG = "a-data-folder-with-a-path-that-is-too-long-for-a-unix-socket".ljust(103, "-")
# One of each kind of object in a database.
THINGS = """
CREATE SCHEMA shop;
CREATE TYPE shop.size AS ENUM ('small', 'large');
CREATE TYPE shop.point AS (x integer, y integer);
CREATE DOMAIN shop.cents AS integer CHECK (value >= 0);
CREATE SEQUENCE shop.numbers;
CREATE TABLE shop.orders (
    id serial PRIMARY KEY, number integer GENERATED ALWAYS AS IDENTITY,
    price shop.cents, size shop.size
) PARTITION BY RANGE (id);
CREATE TABLE shop.first_orders PARTITION OF shop.orders FOR VALUES FROM (0) TO (1000);
CREATE INDEX ON shop.orders (price);
CREATE STATISTICS shop.together ON price, size FROM shop.orders;
CREATE VIEW shop.cheap AS SELECT * FROM shop.orders WHERE price < 10;
CREATE MATERIALIZED VIEW "shop"."Totals" AS SELECT sum(price) FROM shop.orders;
CREATE FUNCTION shop.double(a integer, VARIADIC more text[]) RETURNS integer
    LANGUAGE sql RETURN a * 2;
CREATE PROCEDURE shop.tidy() LANGUAGE sql AS 'DELETE FROM shop.orders';
CREATE AGGREGATE shop.total(integer) (SFUNC = int4pl, STYPE = integer);
CREATE OPERATOR shop.@@@ (FUNCTION = int4pl, LEFTARG = integer, RIGHTARG = integer);
CREATE TABLE plain (n integer);
SELECT lo_create(0);
INSERT INTO shop.orders (price, size) VALUES (5, 'small');
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in the shared temporary one; databases in it are deleted afterwards."""
    made = Path(tempfile.mkdtemp(prefix="ryn-", dir="/tmp"))
    yield made
    for file in list(made.rglob("PG_VERSION")):
        if (file.parent / "postgresql.conf").exists():
            delete_embedded(file.parent)
    for link in list(made.rglob("*")):
        for owner in (server_uid(), os.geteuid()):
            delete_short_folder(link, owner)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def open_folder(folder: Path) -> Path:
    """The same, open to others, so that only our own protection keeps them out of what is in it."""
    folder.chmod(0o755)
    return folder


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The settings of a project in this folder; its data folder, which does not exist yet."""
    monkeypatch.setenv("RUNYARD_HOME", str(folder))
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(folder / ".runyard"))
    monkeypatch.delenv("RUNYARD_POSTGRES_DIR")
    settings.cache_clear()
    yield folder / ".runyard"
    delete_embedded(settings().postgres_dir)
    monkeypatch.undo()
    settings.cache_clear()


def as_nobody(attempt: Callable[[], object]) -> str:
    """The result or error of a call by a process of another user (this one must be root's)."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = str(attempt())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def others_can_open(path: Path) -> bool:
    """Whether another user can read a file, list a folder or connect to a socket."""
    if AS_ROOT and not path.is_socket():
        return "PermissionError" not in as_nobody(lambda: os.close(os.open(path, os.O_RDONLY)))
    wanted = 0o002 if path.is_socket() else 0o004
    return bool(path.stat().st_mode & wanted) and all(
        above.stat().st_mode & 0o001 for above in path.resolve().parents
    )


def open_to_others(folder: Path) -> list[Path]:
    """What another user can open in a folder and below."""
    return [
        path
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and others_can_open(path)
    ]


def foreign(folder: Path) -> Path:
    """A folder of another user."""
    if not AS_ROOT:
        return Path("/usr")
    made = folder / "foreign"
    made.mkdir()
    os.chown(made, NOBODY, NOBODY)
    return made


def ask(url: str, statement: str) -> list[tuple[object, ...]]:
    """The rows of a query on a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def found(url: str | None) -> str:
    """A URL that must exist."""
    assert url is not None
    return url


def socket_of(url: str) -> Path:
    """The socket of a URL."""
    return Path(psycopg.conninfo.conninfo_to_dict(url)["host"]) / ".s.PGSQL.5432"  # type: ignore[arg-type]


def made_of_old(place: Path, *, sockets_elsewhere: bool = True) -> str:
    """Start a server as earlier versions did, where every user is the superuser; return its URL."""
    made = private_folder(place, "", server_uid())
    sockets = (
        short_folder(place.parent / f"old-{place.name}", server_uid())
        if sockets_elsewhere
        else made
    )
    run_program(
        "initdb",
        "--auth=trust",
        "--auth-local=trust",
        "--encoding=utf8",
        "-U",
        "postgres",
        "-D",
        str(made),
        folder=made,
    )
    run_program(
        "pg_ctl",
        "-w",
        "-o",
        f'-h "" -k {sockets}',
        "-l",
        "log",
        "-D",
        str(made),
        "start",
        folder=made,
    )
    url = f"postgresql://postgres:@/postgres?host={sockets}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE runyard")
        connection.execute('CREATE DATABASE "the shop\'s"')
    return url.replace("/postgres?", "/runyard?")


# The database


@pytest.mark.parametrize("name", ["short", LONG])
def test_another_user_cannot_reach_the_socket_of_the_database(open_folder: Path, name: str) -> None:
    url = start_embedded(open_folder / name)
    assert socket_of(url).is_socket()
    assert not others_can_open(socket_of(url))
    if AS_ROOT:
        assert "Permission denied" in as_nobody(lambda: psycopg.connect(url))


def test_a_socket_that_others_reach_is_of_no_use_to_them(open_folder: Path) -> None:
    url = start_embedded(open_folder / "postgres")
    names = ask(
        found(embedded_url(open_folder / "postgres", "postgres")),
        "SELECT DISTINCT sys_name FROM pg_ident_file_mappings",
    )
    assert {name for (name,) in names} == {"root", pwd.getpwuid(os.geteuid()).pw_name}
    if AS_ROOT:
        socket_of(url).parent.chmod(0o755)
        socket_of(url).chmod(0o777)
        for role in ("runyard", "postgres"):
            assert "Peer authentication failed" in as_nobody(
                lambda role=role: psycopg.connect(url.replace("runyard@", f"{role}@"))
            )


def test_the_system_says_who_connects_and_no_port_is_open(server: str) -> None:
    superuser = server.replace("runyard@", "postgres@")
    assert ask(superuser, "SELECT DISTINCT type, auth_method FROM pg_hba_file_rules") == [
        ("local", "peer")
    ]
    assert ask(superuser, "SHOW listen_addresses") == [("",)]


@pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect])
def test_a_server_of_another_user_is_not_talked_to(
    server: str, connect: Callable[[str], object]
) -> None:
    ours = f"requirepeer={pwd.getpwuid(server_uid()).pw_name}"
    with pytest.raises(
        (psycopg.OperationalError, psycopg2.OperationalError), match="requirepeer specifies"
    ):
        connect(server.replace(ours, "requirepeer=nobody"))


def test_runyard_is_not_a_superuser(server: str) -> None:
    rights = ask(
        server,
        "SELECT current_user::text, rolsuper, rolcreaterole, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = current_user",
    )
    assert rights == [("runyard", False, False, False, False)]


def test_no_statement_of_runyard_starts_a_program(server: str) -> None:
    with psycopg.connect(server) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("COPY (SELECT 1) TO PROGRAM 'cat'")


def test_what_names_no_schema_is_in_public(server: str) -> None:
    assert ask(server, "SHOW search_path") == [("public",)]


@pytest.mark.parametrize(
    ("runs", "sockets_elsewhere"), [(True, True), (True, False), (False, False)]
)
def test_a_data_folder_of_before_is_given_to_the_ordinary_role(
    folder: Path, runs: bool, sockets_elsewhere: bool
) -> None:
    folder.chmod(0o711)
    old = made_of_old(folder / "postgres", sockets_elsewhere=sockets_elsewhere)
    shop = old.replace("/runyard?", "/the%20shop's?")
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(THINGS)
    if not runs:
        stop_embedded(folder / "postgres")
    url = start_embedded(folder / "postgres")
    shop = found(embedded_url(folder / "postgres", database="the shop's"))
    owned = (
        "SELECT relname::text FROM pg_class"
        " WHERE relowner = 10 AND oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace"
    )
    assert ask(shop, owned) == []
    for kind in (
        "pg_namespace nsp",
        "pg_proc pro",
        "pg_type typ",
        "pg_statistic_ext stx",
        "pg_operator opr",
        "pg_largeobject_metadata lom",
    ):
        table, prefix = kind.split()
        assert ask(shop, f"SELECT oid FROM {table} WHERE {prefix}owner = 10 AND oid >= 16384") == []
    assert ask(shop, "INSERT INTO shop.orders (price) VALUES (7) RETURNING id") == [(2,)]
    assert ask(
        url, "SELECT datname::text FROM pg_database WHERE datdba = 'runyard'::regrole ORDER BY 1"
    ) == [("runyard",), ("the shop's",)]
    assert ask(
        found(embedded_url(folder / "postgres", "postgres")),
        "SELECT DISTINCT auth_method FROM pg_hba_file_rules",
    ) == [("peer",)]


def test_the_tables_of_before_work_under_the_ordinary_role(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.mkdir()
    if AS_ROOT:
        project.parent.chmod(0o711)
        project.chmod(0o711)
    before = os.environ["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", made_of_old(project / "postgres"))
    project.chmod(0o733)
    settings.cache_clear()
    database.close_pool()
    migrate()
    with database.connection() as connection:
        connection.execute("SELECT runyard.send('greet/requested', '{}')")
    database.close_pool()

    # Its server keeps running with its files. As root they are elsewhere from now on.
    assert stat.S_IMODE(data_folder().stat().st_mode) == (0o711 if AS_ROOT else 0o700)
    monkeypatch.setenv(
        "DATABASE_URL", start_embedded(settings().postgres_dir, project / "postgres")
    )
    settings.cache_clear()
    assert stat.S_IMODE(data_folder().stat().st_mode) == 0o700
    assert "PANIC" not in (settings().postgres_dir / "log").read_text()
    check_migrated()
    assert migrate()[-1] == "dagster: up to date"
    with database.connection() as connection:
        connection.execute("SELECT runyard.send('greet/requested', '{}')")
        assert connection.execute("SELECT count(*) AS n FROM runyard.events").fetchone() == {"n": 2}
        owners = connection.execute(
            "SELECT DISTINCT tableowner::text FROM pg_tables"
            " WHERE schemaname IN ('runyard', 'app', 'public')"
        ).fetchall()
    assert owners == [{"tableowner": "runyard"}]
    assert (project / "postgres").exists() == (not AS_ROOT)
    database.close_pool()
    monkeypatch.setenv("DATABASE_URL", before)


def test_data_of_root_are_moved_to_another_file_system(folder: Path) -> None:
    shared = Path(
        tempfile.mkdtemp(prefix="ryn-", dir="/dev/shm" if Path("/dev/shm").exists() else None)
    )
    try:
        shared.chmod(0o711)
        with psycopg.connect(made_of_old(shared / "postgres"), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        folder.chmod(0o711)
        place = folder / "postgres" if AS_ROOT else shared / "postgres"
        assert ask(start_embedded(place, shared / "postgres"), "SELECT n FROM kept") == [(42,)]
        assert not others_can_open(place)
    finally:
        delete_embedded(shared / "postgres")
        delete_short_folder(shared / "old-postgres", server_uid())
        shutil.rmtree(shared)


def test_nothing_above_the_database_is_opened(folder: Path) -> None:
    above = folder / "above"
    above.mkdir(mode=0o711)
    folder.chmod(0o711)
    modes = {path: path.stat().st_mode for path in (above, *above.parents)}
    start_embedded(above / "postgres")
    assert {path: path.stat().st_mode for path in modes} == modes


def test_a_folder_that_the_server_cannot_use_is_refused_with_the_next_step(folder: Path) -> None:
    place = folder / "closed" / "postgres" if AS_ROOT else foreign(folder)
    if AS_ROOT:
        place.parent.mkdir(mode=0o700)
    with pytest.raises(RunyardError, match="RUNYARD_POSTGRES_DIR"):
        start_embedded(place)


def test_the_database_of_root_is_in_a_place_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    settings.cache_clear()
    said = why_elsewhere(settings())
    if AS_ROOT:
        assert settings().postgres_dir.parent == Path("/var/lib/runyard")
        assert said is not None
        assert str(settings().postgres_dir) in said
        assert "RUNYARD_POSTGRES_DIR" in said
        assert "root" in said
    else:
        assert settings().postgres_dir == project / "postgres"
        assert said is None


def test_a_variable_puts_the_database_elsewhere(folder: Path) -> None:
    assert (
        Settings(home=folder, postgres_folder=folder / "elsewhere").postgres_dir
        == folder / "elsewhere"
    )


def test_the_database_is_where_its_data_folder_is_for_root_too(folder: Path) -> None:
    owner = foreign(folder)
    expected = owner / "postgres" if AS_ROOT else folder / "mine" / "postgres"
    assert (
        Settings(
            home=folder, data_dir=owner if AS_ROOT else folder / "mine", postgres_folder=None
        ).postgres_dir
        == expected
    )


def test_a_process_id_of_another_program_is_not_trusted(folder: Path) -> None:
    (folder / "postmaster.pid").write_text(
        f"{os.getpid()}\n{folder}\n1\n5432\n{folder}\n\n1 1\nready\n"
    )
    assert embedded_url(folder) is None
    stop_embedded(folder)


def test_a_data_folder_that_may_not_be_looked_into_is_named(folder: Path) -> None:
    (folder / "postgres").mkdir()
    folder.chmod(0o700)
    if AS_ROOT:
        said = as_nobody(lambda: embedded_url(folder / "postgres"))
    else:
        folder.chmod(0o000)
        with pytest.raises(DatabaseUnavailable) as error:
            embedded_url(folder / "postgres")
        folder.chmod(0o700)
        said = f"DatabaseUnavailable: {error.value}"
    assert said.startswith("DatabaseUnavailable")
    assert str(folder) in said
    assert "run this as the user" in said


def test_names_with_special_characters_are_not_run_by_a_shell(folder: Path) -> None:
    folder.chmod(0o711)
    place = folder / "a, b 'c' $(touch x) & d"
    assert ask(start_embedded(place), "SELECT 1") == [(1,)]
    assert not list(place.glob("x"))


def test_no_secret_reaches_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "hush")
    monkeypatch.setenv("PGPORT", "1")
    start_embedded(folder)
    process = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
    assert not {"SENDGRID_API_KEY", "PGPORT"} & process.environ().keys()


def test_roots_groups_are_not_the_servers(folder: Path) -> None:
    start_embedded(folder)
    process = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
    assert process.uids().real == server_uid()
    assert (process.gids().real == 0) == (os.getegid() == 0 and not AS_ROOT)


# Folders


def test_a_new_folder_is_its_owners_alone(folder: Path) -> None:
    assert stat.S_IMODE(private_folder(folder / "new", "X").stat().st_mode) == 0o700


def test_a_folder_of_ours_is_closed(folder: Path) -> None:
    folder.chmod(0o755)
    assert stat.S_IMODE(private_folder(folder, "X").stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    with pytest.raises(RunyardError, match=r"belongs to .* run this as .* or set RUNYARD_DATA_DIR"):
        private_folder(foreign(folder), "RUNYARD_DATA_DIR")


def test_a_link_of_another_user_is_refused(folder: Path) -> None:
    link = folder / "link"
    (folder / "mine").mkdir()
    link.symlink_to(folder / "mine" if AS_ROOT else foreign(folder))
    if AS_ROOT:
        os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(RunyardError, match="or set RUNYARD_DATA_DIR"):
        private_folder(link, "RUNYARD_DATA_DIR")


def test_a_link_of_our_own_is_followed(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "link").symlink_to(folder / "mine")
    assert private_folder(folder / "link", "X") == folder / "mine"


def test_a_relative_path_starts_at_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert private_folder(Path("some/data"), "X") == folder / "some" / "data"


def test_a_file_is_not_accepted_as_a_folder(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(RunyardError, match="move it away, or set X"):
        private_folder(folder / "file", "X")


def dangerous(folder: Path, kind: str) -> Path:
    """A folder in which another user can rename files.

    An ordinary user cannot create one that belongs to somebody else; it is open to all then.
    """
    made = folder / "above"
    made.mkdir()
    if not AS_ROOT or kind == "everybody":
        made.chmod(0o777)
    elif kind == "owner":
        os.chown(made, NOBODY, NOBODY)
    elif kind == "group":
        os.chown(made, 0, pwd.getpwuid(server_uid()).pw_gid)
        made.chmod(0o775)
    elif kind == "sticky":
        os.chown(made, NOBODY, NOBODY)
        made.chmod(0o1755)
    return made


@pytest.mark.parametrize("kind", ["owner", "everybody", "group", "sticky"])
@pytest.mark.parametrize("below", ["data", "some/way/down"])
def test_a_folder_that_others_could_replace_is_refused(folder: Path, kind: str, below: str) -> None:
    above = dangerous(folder, kind)
    with pytest.raises(
        RunyardError,
        match=rf"could be replaced .*: {above} .*"
        r" Set RUNYARD_DATA_DIR to .*, or (run this as|`chmod)",
    ):
        private_folder(above / below, "RUNYARD_DATA_DIR")
    assert list(above.iterdir()) == []


def test_a_folder_that_others_could_replace_far_above_is_refused(folder: Path) -> None:
    above = dangerous(folder, "owner")
    (above / "ours" / "data").mkdir(parents=True, mode=0o700)
    with pytest.raises(RunyardError, match=f"{above} "):
        private_folder(above / "ours" / "data", "X")


@pytest.mark.parametrize("way", ["link/data", "there/../link/data", "second/data"])
def test_a_way_through_a_link_of_another_user_is_refused(folder: Path, way: str) -> None:
    common = folder if AS_ROOT else dangerous(folder, "everybody")
    (common / "there").mkdir()
    (common / "link").symlink_to(common / "there")
    (common / "second").symlink_to("link")
    if AS_ROOT:
        folder.chmod(0o1777)
        os.lchown(common / "link", NOBODY, NOBODY)
    with pytest.raises(RunyardError, match=r"a link that .* made: remove it|could be replaced"):
        private_folder(common / way, "X")
    assert list((common / "there").iterdir()) == []


def test_a_link_into_a_folder_of_another_user_is_refused(folder: Path) -> None:
    above = dangerous(folder, "owner")
    (folder / "link").symlink_to(above)
    with pytest.raises(RunyardError, match=f"{above} "):
        private_folder(folder / "link" / "data", "X")


def test_links_in_a_circle_are_refused_with_the_next_step(folder: Path) -> None:
    (folder / "link").symlink_to("link")
    with pytest.raises(RunyardError, match=r"symbolic links.*set X to another"):
        check_above(folder / "link" / "data", "X")


@pytest.mark.parametrize("mode", [0o1777, 0o775, 0o2775, 0o1775, 0o755])
def test_a_folder_that_others_cannot_change_is_accepted(folder: Path, mode: int) -> None:
    above = folder / "above"
    above.mkdir()
    above.chmod(mode)
    check_above(above / "data", "X")
    assert private_folder(above / "some" / "data", "X") == above / "some" / "data"


def test_whoever_has_the_code_is_trusted_with_the_data_too(project: Path) -> None:
    if AS_ROOT:
        os.chown(project.parent, NOBODY, NOBODY)
    project.parent.chmod(0o775)
    check_above(project, "RUNYARD_DATA_DIR")
    assert data_folder() == project


def test_no_database_is_created_where_others_could_replace_it(folder: Path) -> None:
    above = dangerous(folder, "everybody")
    with pytest.raises(RunyardError, match="RUNYARD_POSTGRES_DIR"):
        start_embedded(above / "some" / "postgres")
    assert list(above.iterdir()) == []


def test_a_process_that_only_looks_like_a_server_keeps_no_folder_open(project: Path) -> None:
    project.parent.chmod(0o711)
    (project / "postgres").mkdir(parents=True)
    program = project.parent / "postgres"
    shutil.copy(found(shutil.which("sleep")), program)
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}
    with subprocess.Popen([program, "60"], cwd="/", **identity) as pretender:  # type: ignore[call-overload]
        try:
            pid_file = project / "postgres" / "postmaster.pid"
            pid_file.write_text(f"{pretender.pid}\n{project}\n1\n5432\n{project}\n\n1 1\nready\n")
            if AS_ROOT:
                os.chown(project / "postgres", NOBODY, NOBODY)
            deadline = time.monotonic() + 5
            while embedded_url(project / "postgres") is None and time.monotonic() < deadline:
                time.sleep(0.01)
            project.chmod(0o777)
            assert embedded_url(project / "postgres") is not None
            assert stat.S_IMODE(data_folder().stat().st_mode) == 0o700
        finally:
            pretender.kill()


def test_the_stack_takes_no_data_folder_of_another_user(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(foreign(project.parent)))
    settings.cache_clear()
    for command in (Stack().start, Stack().stop, lambda: socket_path("code")):
        with pytest.raises(RunyardError, match="belongs to"):
            command()


# Sockets


def test_what_was_laid_into_the_common_folder_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashlib import sha256

    data = folder / LONG
    trap = folder / "trap"
    trap.mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (folder / f"runyard-{os.getuid()}-{sha256(str(data).encode()).hexdigest()[:12]}").symlink_to(
        trap
    )
    path = socket_path("code", Settings(data_dir=data))
    assert not path.resolve().is_relative_to(trap)
    assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o700


def test_all_processes_find_the_same_sockets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Settings(data_dir=folder / LONG)
    first = socket_path("code", of)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert socket_path("code", of) == first
    first.parent.rmdir()


@pytest.mark.parametrize("mode", [0o755, None])
def test_a_socket_folder_open_to_others_is_recreated(
    folder: Path, mode: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    first = short_folder(folder / "link")
    if mode is None:
        first.rmdir()
        first.symlink_to(folder)
    else:
        first.chmod(mode)
    second = short_folder(folder / "link")
    assert second != first
    assert not second.is_symlink()
    assert stat.S_IMODE(second.stat().st_mode) == 0o700


def test_a_common_folder_in_which_others_can_rename_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = folder / "common"
    common.mkdir()
    common.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(common))
    made = short_folder(folder / "link")
    assert made.parent == Path("/tmp")
    made.rmdir()


def test_a_temporary_folder_below_one_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = dangerous(folder, "owner") / "common"
    common.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(common))
    made = short_folder(folder / "link")
    assert made.parent == Path("/tmp")
    made.rmdir()


def test_a_socket_of_the_stack_cannot_be_reached_by_others(open_folder: Path) -> None:
    for name in ("data", LONG):
        path = socket_path("supervisor", Settings(data_dir=open_folder / name))
        assert not others_can_open(path.parent)


# Files


def test_commands_write_for_their_user_alone(security_url: str) -> None:
    code = (
        "import os\nfrom runyard.cli.main import main\n"
        "try: main(['env'])\nexcept SystemExit: print(oct(os.umask(0)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": security_url},
        umask=0o022,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[-1] == "0o77"


def test_mails_of_the_outbox_cannot_be_read_by_others(project: Path) -> None:
    project.parent.chmod(0o755)
    project.mkdir(mode=0o755)
    OutboxMailer().send(Mail(id="one", to=["ada@example.com"], subject="Hi", text="Hello"))
    assert (project / "outbox" / "one.eml").exists()
    assert open_to_others(project) == []


@pytest.mark.parametrize(("mode", "file_mode"), [(0o755, 0o644), (0o700, 0o600), (0o777, 0o644)])
def test_a_folder_that_its_user_opened_to_others_gets_files_that_they_can_read(
    open_folder: Path, mode: int, file_mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_folder / "store"
    store.mkdir()
    store.chmod(mode)
    for name in ("MEDIA_STORE", "MAIL_OUTBOX"):
        monkeypatch.setenv(name, str(store))
    before = os.umask(0o077)
    try:
        (open_folder / "picture").write_bytes(b"...")
        kept = MediaStore().put(open_folder / "picture", ".webp")
        manifest = MediaStore().put_manifest("one", {})
        OutboxMailer().send(Mail(id="one", to=["ada@example.com"], subject="Hi", text="Hello"))
    finally:
        os.umask(before)
    for file in (store / kept["key"], store / manifest, store / "one.eml"):
        assert stat.S_IMODE(file.stat().st_mode) == file_mode
    assert stat.S_IMODE((store / kept["key"]).parent.stat().st_mode) == mode & 0o755


def test_the_data_folder_is_private_before_anything_is_in_it(project: Path) -> None:
    assert stat.S_IMODE(data_folder().stat().st_mode) == 0o700


def test_no_command_line_contains_the_database_password(security_url: str, tmp_path: Path) -> None:
    # The role needs no password; one that is set anyway must not be shown.
    url = security_url.replace("runyard@", "runyard:hush-hush@")
    (tmp_path / "workspace.yaml").write_text("load_from:\n  - python_module: tests.code\n")
    web = WebProcess(url, tmp_path / "log", ["--workspace", str(tmp_path / "workspace.yaml")])
    web.start()
    try:
        processes = [psutil.Process(web.pid), *psutil.Process(web.pid).children(recursive=True)]
        assert len(processes) > 1
        assert not [
            line for process in processes for line in process.cmdline() if "hush-hush" in line
        ]
    finally:
        web.stop()
