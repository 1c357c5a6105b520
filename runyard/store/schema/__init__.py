"""The present schema of the engine, as SQL: tables first, then the functions by subject.

`0001_initial` creates a new database from these files. Every later change is made twice: in a new
migration, for databases that exist, and here, so that these files always show the whole schema. A
test holds both to the same result. The first migration after a release copies the released files
next to `0001_initial`, which from then on runs the copy.

**SQL functions are versioned.** Workers, gateways and daemons of the previous version keep running
while a deploy migrates the database under them, so a function that they call is never replaced, and
never changes its signature or its meaning:

- the name of every function that the engine's code calls ends in `_v1`, `_v2` and so on;
- a change adds a function with the next number and leaves the old one in place, for as long as a
  released version may still call it;
- functions without a version (`runyard.send`, `replay`, `cancel`, `run_now`, `dismiss`, `now`) are
  the API for applications' own SQL. The engine calls none of them.

`tests/store/test_schema_contract.py` holds the functions that the code calls to a snapshot of their
signatures.
"""

from pathlib import Path

FILES = ("clock", "tables", "documents", "send", "flow_control", "claim", "waits", "ends")


def schema_sql() -> str:
    """All files, in the order in which they are run."""
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.sql").read_text(encoding="utf-8") for name in FILES)
