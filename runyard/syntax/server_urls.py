"""URLs of servers, which may hold a password: what is wrong with one.

A character of a password that separates the parts of a URL, and is not percent-encoded, makes the
rest of the password a host, a port or a database. Whoever cannot reach those names them. So such a
URL is refused, in words that repeat nothing of it.
"""

from urllib.parse import urlsplit

_ENCODE = (
    "percent-encode special characters of the user and the password (@ is %40, / is %2F, % is %25)"
)


def problem_with_postgres_url(url: str) -> str | None:
    """Return what is wrong with a URL of PostgreSQL, and what to do; None if it can be used."""
    # Not at the top: the programs that only read settings without a URL do not wait for psycopg.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgresql://", "postgres://")):
        return (
            "not a URL of PostgreSQL: write postgresql://user:password@host:5432/database, not"
            " the form host=... dbname=..., and encode special characters (@ is %40)"
        )
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        return f"libpq cannot read this URL: {_ENCODE}, and check the options behind the ?"
    hosts, ports, name = (str(parts.get(key, "")) for key in ("host", "port", "dbname"))
    # A folder of a socket may have any name, and so may a database whose name is encoded.
    is_host = all("@" not in host or host.startswith(("/", "@")) for host in hosts.split(","))
    is_port = all(port.isdecimal() or not port for port in ports.split(","))
    if is_host and is_port and not ("@" in name and name in url):
        return _problem_for_dagster(url)
    return f"a part of the password would be taken as a host, a port or a database: {_ENCODE}"


def _problem_for_dagster(url: str) -> str | None:
    """What Dagster, which reads URLs by SQLAlchemy, would take for something else; or None."""
    place = url.partition("?")[0].rpartition("@")[2].rpartition("://")[2]
    hosts = place.partition("/")[0]
    if "%" not in place and not ("," in hosts and ":" in hosts):
        return None
    return (
        "Dagster cannot read this URL: write percent-encoded names, and several hosts with ports,"
        " behind the ?, as in postgresql://user:password@/?host=a,b&port=5432,5433&dbname=app"
    )


def problem_with_broker_url(url: str) -> str | None:
    """Return what is wrong with a URL of a broker, or several between semicolons, or None."""
    for each in url.split(";"):
        try:
            parts = urlsplit(each)
            is_port = parts.port is None or parts.port > 0  # one that is none raises
            rest = parts.path + parts.query + parts.fragment if parts.netloc else ""
        except ValueError:
            is_port, rest = False, ""
        if not is_port or "@" in rest:
            return f"not a URL of a broker: write redis://:password@host:6379/0, and {_ENCODE}"
    return None
