"""Who may do what in the embedded database.

Only the user that Runyard runs as, and root, can connect, over a Unix socket on which the system itself says who comes (`peer`): no password stands
in any URL. Runyard works as the role `runyard`, which owns its databases and is no superuser.
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
# Owns nothing of the project's: it makes the role and the database, and was the only role of older data folders.
SUPERUSER = "postgres"
_MADE = "# Written by Runyard at every start.\n"
_HBA = (
    _MADE
    + f"# Over the Unix socket alone, and as whom pg_ident.conf says.\nlocal all all peer map=runyard\nlocal replication {SUPERUSER} peer map=runyard\n"
)

# What a superuser owns of a database, as the statements that give it away. What belongs to an extension, and what follows its table, is left out.
_OWNED = """
SELECT format(
    'ALTER %%s %%s OWNER TO %%I',
    CASE object.type WHEN 'composite type' THEN 'TYPE' WHEN 'statistics object' THEN 'STATISTICS' ELSE upper(object.type) END, object.identity, %(role)s::text
)
FROM (
    SELECT 'pg_namespace'::regclass AS class, oid, nspowner AS owner FROM pg_namespace
    UNION ALL SELECT 'pg_class', oid, relowner FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'pg_class', oid, relowner FROM pg_class WHERE relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i')
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
    SELECT FROM pg_depend WHERE classid = owned.class AND objid = owned.oid AND deptype IN ('e', 'i') AND (refclassid, refobjid) <> (classid, objid)
)
"""


def write_access(postgres_dir: Path) -> bool:
    """Write who may connect into the server's files; return whether that is news to it."""
    return any(
        [
            _write(postgres_dir / "pg_hba.conf", _HBA),
            _write(postgres_dir / "pg_ident.conf", _ident()),
        ]
    )


def make_database(connection: "psycopg.Connection[tuple[object, ...]]") -> list[str]:
    """Make Runyard's role and database on a superuser's connection; return the databases that a superuser owns, of an older version's making."""
    found = connection.execute(
        "SELECT rolcanlogin AND NOT rolsuper AND rolconfig IS NOT NULL FROM pg_roles WHERE rolname = %s",
        (ROLE,),
    ).fetchone()
    if found is None:
        connection.execute(f"CREATE ROLE {ROLE}")
    if found is None or not found[0]:
        # A schema has the role's name; what names no schema, such as Dagster's tables, is in `public` all the same.
        connection.execute(
            f"ALTER ROLE {ROLE} LOGIN CREATEDB NOSUPERUSER; ALTER ROLE {ROLE} SET search_path = public"
        )
    if (
        connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        is None
    ):
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE datdba = 10 AND datallowconn AND NOT datistemplate AND datname <> %s ORDER BY 1",
        (SUPERUSER,),
    ).fetchall()
    return [str(row[0]) for row in rows]


def hand_over(connection: "psycopg.Connection[tuple[object, ...]]", database: str) -> None:
    """Give a superuser's database to Runyard's role with all that is in it, on a superuser's connection to it: as a whole or not at all."""
    with connection.transaction():
        for (statement,) in connection.execute(_OWNED, {"role": ROLE}).fetchall():
            connection.execute(str(statement).encode())
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(database), sql.Identifier(ROLE)
            )
        )


def _ident() -> str:
    """Which users of the system may connect, each as any role: what they want of the database they could take from its files, too."""
    try:
        names = sorted({pwd.getpwuid(os.geteuid()).pw_name, "root"})
    except KeyError:
        raise RunyardError(
            f"the user {os.geteuid()} has no name, by which PostgreSQL could know it: give it one in /etc/passwd, or set DATABASE_URL"
        ) from None
    return _MADE + "".join('runyard "{}" all\n'.format(name.replace('"', '""')) for name in names)


def _write(file: Path, text: str) -> bool:
    """Replace a file of the server's with this text, unless it has it; whatever stands there under its name is not followed."""
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
