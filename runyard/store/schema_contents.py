"""What the engine's schema has to contain, and what of that a database lacks.

A revision only says what was migrated. Before the first release `0001_initial` itself has changed,
so that a database of that time has the revision, but not all that the code uses.
"""

import re
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, text

_RELEASED = Path(__file__).parent / "schema" / "released.txt"
_NAME = re.compile(r"[\w.]+")
# Names alone: how a server writes a signature depends on its version.
_LACKING = text("""
    SELECT name FROM unnest(CAST(:names AS text[])) AS released (name)
    EXCEPT
    SELECT relname || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relnamespace = to_regnamespace('runyard') AND attnum > 0 AND NOT attisdropped
    EXCEPT
    SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace('runyard')
    ORDER BY name LIMIT 1
""")


def lacking(connection: Connection) -> str | None:
    """The first column or function of the released schema that a database lacks, if any."""
    name = connection.execute(_LACKING, {"names": list(_names())}).scalar()
    return None if name is None else f"runyard.{name}"


@cache
def _names() -> tuple[str, ...]:
    """The names of columns, with their tables, and of functions that released code uses."""
    lines = _RELEASED.read_text(encoding="utf-8").splitlines()
    matches = [_NAME.match(line) for line in lines]
    return tuple(match[0] for match in matches if match is not None)
