"""Who may do what in the embedded database.

Only the user that Runyard runs as, and root, can connect, over a Unix socket on which the system
itself identifies the user (`peer`): no URL contains a password. Runyard uses the role `runyard`,
which owns its databases and is not a superuser.
"""

import os
import pwd
import stat
import uuid
from pathlib import Path

import psycopg
from psycopg import sql

from runyard.errors import RunyardError

DATABASE = "runyard"
ROLE = "runyard"
# Owns nothing of the project's: it creates the role and the database, and was the only role in
# older data folders.
SUPERUSER = "postgres"
_HEADING = "# Written by Runyard at every start.\n"
_HBA = f"""{_HEADING}\
# Only over the Unix socket, and as the roles that pg_ident.conf allows.
local all all peer map=runyard
local replication {SUPERUSER} peer map=runyard
"""

# What a superuser owns in a database, as the statements that hand it over; without what belongs to
# an extension, and what follows its table.
_OWNED = """
SELECT format(
    'ALTER %%s %%s OWNER TO %%I',
    CASE object.type
        WHEN 'composite type' THEN 'TYPE'
        WHEN 'statistics object' THEN 'STATISTICS'
        ELSE upper(object.type) END,
    object.identity, %(role)s::text
)
FROM (
    SELECT 'pg_namespace'::regclass AS class, oid, nspowner AS owner FROM pg_namespace
    UNION ALL SELECT 'pg_class', oid, relowner FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'pg_class', oid, relowner FROM pg_class WHERE relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i')
    )
    UNION ALL SELECT 'pg_proc', oid, proowner FROM pg_proc
    UNION ALL SELECT 'pg_type', oid, typowner FROM pg_type
    UNION ALL SELECT 'pg_statistic_ext', oid, stxowner FROM pg_statistic_ext
    UNION ALL SELECT 'pg_collation', oid, collowner FROM pg_collation
    UNION ALL SELECT 'pg_operator', oid, oprowner FROM pg_operator
    UNION ALL SELECT 'pg_ts_dict', oid, dictowner FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_config', oid, cfgowner FROM pg_ts_config
    UNION ALL SELECT 'pg_largeobject', oid, lomowner FROM pg_largeobject_metadata
) AS owned
CROSS JOIN pg_identify_object(owned.class, owned.oid, 0) AS object
WHERE owned.owner = 10 AND owned.oid >= 16384 AND NOT EXISTS (
    SELECT FROM pg_depend
    WHERE classid = owned.class AND objid = owned.oid AND deptype IN ('e', 'i')
        AND (refclassid, refobjid) <> (classid, objid)
)
"""


def write_access(postgres_dir: Path) -> bool:
    """Write who may connect into the server's files; return whether that has changed."""
    hba_changed = _write(postgres_dir / "pg_hba.conf", _HBA)
    ident_changed = _write(postgres_dir / "pg_ident.conf", _ident())
    return hba_changed or ident_changed


def make_database(connection: "psycopg.Connection[tuple[object, ...]]") -> list[str]:
    """Create Runyard's role and database on a superuser's connection.

    Returns the databases that a superuser owns because an older version created them.
    """
    role = connection.execute(
        "SELECT rolcanlogin AND NOT rolsuper AND rolconfig IS NOT NULL"
        " FROM pg_roles WHERE rolname = %s",
        (ROLE,),
    ).fetchone()
    if role is None:
        connection.execute(f"CREATE ROLE {ROLE}")
    if role is None or not role[0]:
        # There is a schema with the role's name; what names no schema, such as Dagster's tables,
        # belongs in `public` nevertheless.
        connection.execute(
            f"ALTER ROLE {ROLE} LOGIN CREATEDB NOSUPERUSER;"
            f" ALTER ROLE {ROLE} SET search_path = public"
        )
    database = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
    if database.fetchone() is None:
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    owned = connection.execute(
        "SELECT datname FROM pg_database"
        " WHERE datdba = 10 AND datallowconn AND NOT datistemplate AND datname <> %s ORDER BY 1",
        (SUPERUSER,),
    )
    return [str(row[0]) for row in owned.fetchall()]


def hand_over(connection: "psycopg.Connection[tuple[object, ...]]", database: str) -> None:
    """Hand over a superuser's database and everything in it to Runyard's role, in one transaction.

    The connection is a superuser's, to that database.
    """
    with connection.transaction():
        for (statement,) in connection.execute(_OWNED, {"role": ROLE}).fetchall():
            connection.execute(str(statement).encode())
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(database), sql.Identifier(ROLE)
            )
        )


def _ident() -> str:
    """Which system users may connect, each as any role: they could read its files anyway."""
    try:
        names = sorted({pwd.getpwuid(os.geteuid()).pw_name, "root"})
    except KeyError:
        raise RunyardError(
            f"the user {os.geteuid()} has no name, by which PostgreSQL identifies users: give it"
            " one in /etc/passwd, or set DATABASE_URL"
        ) from None
    quoted = [name.replace('"', '""') for name in names]
    return _HEADING + "".join(f'runyard "{name}" all\n' for name in quoted)


def _write(file: Path, text: str) -> bool:
    """Replace a file of the server, without following a link; return whether it was different."""
    if file.is_file() and not file.is_symlink() and file.read_text(encoding="utf-8") == text:
        return False
    staged = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    owner = file.parent.stat()
    opened = os.open(
        staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, stat.S_IRUSR | stat.S_IWUSR
    )
    with os.fdopen(opened, "w", encoding="utf-8") as written:
        if os.geteuid() == 0:
            os.fchown(opened, owner.st_uid, owner.st_gid)
        written.write(text)
    staged.replace(file)
    return True
