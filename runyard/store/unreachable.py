"""Why there is no connection to the database, in words that say what to do.

libpq gives no code for a connection that failed, only the text of the server or its own. Texts of
PostgreSQL and PgBouncer get their advice; any other, also one in another language, is shown alone.
"""

from runyard.text.redaction import redact

POOLER = (
    "DATABASE_URL leads to a pooler such as PgBouncer: also set RUNYARD_DIRECT_DATABASE_URL to the"
    " URL of the server itself, for migrations and notifications"
)
# How PgBouncer and Amazon's RDS Proxy refuse session settings.
_NO_SETTINGS = ("unsupported startup parameter", "support command-line options")
_MAX_TEXT = 200
_LOGIN = "check the user and the password in DATABASE_URL"
_NAME = "create it, or correct its name in DATABASE_URL"
_SLOTS = "raise max_connections, or the limit of the role or the database, or run fewer processes"
# What a text contains, and what to do; the first one counts of which every part occurs.
_ADVICE = (
    (("password authentication failed",), _LOGIN),
    (("no password supplied",), "add the password to DATABASE_URL"),
    (("pg_hba.conf",), "allow that in pg_hba.conf on the server, or change DATABASE_URL"),
    (("not permitted to log in",), "give the role LOGIN, or name another in DATABASE_URL"),
    (("authentication failed",), _LOGIN),
    (("no such user",), _LOGIN),
    (("permission denied for database",), "grant the role CONNECT on it"),
    (("not currently accepting connections",), "ALTER DATABASE ... ALLOW_CONNECTIONS true"),
    (("database", "does not exist"), _NAME),
    (("no such database",), _NAME),
    (("role", "does not exist"), _NAME),
    (("too many", "connections"), _SLOTS),
    (("too many clients",), _SLOTS),
    (("connection slots",), _SLOTS),
    (("is starting up",), "wait until it has started"),
    (("not yet accepting connections",), "wait until it has started"),
    (("recovery mode",), "wait until it has started"),
    (("shutting down",), "start it again"),
    (("certificate",), "check sslmode and sslrootcert in DATABASE_URL"),
    (("SSL",), "check sslmode in DATABASE_URL, and whether the server has ssl = on"),
    (("failed to resolve host",), "check the host in DATABASE_URL"),
    (("timeout expired",), "check host and port in DATABASE_URL, and the firewall in between"),
    (("Connection refused",), "check DATABASE_URL, and that the server is running"),
    (("No such file or directory",), "check DATABASE_URL, and that the server is running"),
)


def leads_to_a_pooler(error: BaseException) -> bool:
    """Whether a connection failed because a pooler does not accept session settings."""
    return any(text in str(error) for text in _NO_SETTINGS)


def why_no_connection(error: BaseException) -> str:
    """The reason that an error of connecting gives, with what to do; without a password."""
    if leads_to_a_pooler(error):
        return POOLER
    text = str(error)
    reason = _reason(text)
    fitting = [advice for parts, advice in _ADVICE if all(part in reason for part in parts)]
    says = "refuses the connection" if "FATAL" in text else "does not answer"
    return f"the database {says} ({reason})" + (f": {fitting[0]}" if fitting else "")


def _reason(text: str) -> str:
    """The first line of a text, without the address."""
    line = text.strip().partition("\n")[0]
    for before in ("FATAL:", " failed: "):
        line = line.rpartition(before)[2].strip()
    return redact(line)[:_MAX_TEXT]
