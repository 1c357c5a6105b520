"""The present schema of the engine, as SQL: tables first, then the functions by subject.

`0001_initial` creates a new database from these files. Every later change is made twice: in a new
migration, for databases that exist, and here, so that these files always show the whole schema. A
test holds both to the same result. The first migration after a release copies the released files
next to `0001_initial`, which from then on runs the copy.

**What running workers use does not change.** Workers, gateways and daemons of the previous version
keep running while a deploy migrates the database under them:

- The name of every SQL function that the engine's code calls ends in a version (`_v1`, `_v2`, ...),
  and such a function is never replaced. A change adds a function with the next number, and leaves
  the old one in place as long as a supported version may call it.
- Functions without a version (`runyard.send`, `replay`, `cancel`, `run_now`, `dismiss`, `now`) are
  the API for applications' own SQL. The engine calls none of them.
- A column is not dropped, renamed or given another type as long as a supported version uses it, and
  a new one is nullable or has a default.

- A migration declares what it needs (`Needs`): its kind, its tables, and the oldest revision whose
  code works with what it leaves. That is recorded in `runyard.schemas`, where older code finds it.
  Within a series, migrations only add, and name the first revision of the series. Something is
  removed in two releases: one that no longer uses it, then one, of a later series, whose migration
  names the revision of the former.
- An index on a large table is built in `op.get_context().autocommit_block()`, concurrently and with
  `SET lock_timeout = 0`. It is dropped first (`DROP INDEX CONCURRENTLY IF EXISTS`), because a build
  that was interrupted leaves an invalid one.

`released.txt` lists what released code uses, below the version that it came with: all columns, and
the functions. A test compares it with the schema, and every process does so with the schema that it
finds when it starts.

The comment of a function names the indexes it uses, as do those of the queries. Functions in
PL/pgSQL that read tables are never compiled (`jit = off`): PostgreSQL overestimates their cost,
because it cannot know how few rows they find, and compiling takes longer than any of them runs.
"""

from pathlib import Path

FILES = (
    "clock",
    "tables",
    "tallies",
    "apps",
    "expressions",
    "documents",
    "send",
    "flow_control",
    "claim",
    "waits",
    "ends",
)


def schema_sql() -> str:
    """All files, in the order in which they are run."""
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.sql").read_text(encoding="utf-8") for name in FILES)
