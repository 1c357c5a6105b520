"""What a migration needs of those who run it, and of the processes that run meanwhile.

A migration of the engine declares this beside its `upgrade`; one of a project may::

    needs = Needs("catalog", oldest_code="0001_initial", tables=("app.orders",))

`runyard migrate --check` prints it for what is pending, and docs/upgrading.md for every migration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

# How many seconds `runyard migrate` tries again for the lock of a table that others hold.
LOCK_WAIT = 600.0
Kind = Literal["create", "catalog", "index", "concurrent index", "rows", "rewrite"]
KINDS: Mapping[Kind, str] = {
    "create": "only creates objects; locks nothing that is in use",
    "catalog": "changes the catalog alone; locks its tables for moments, whatever their size",
    "index": "reads its tables once; writes to them wait meanwhile",
    "concurrent index": "reads its tables twice; nothing waits for it",
    "rows": "changes rows in chunks; writes to the same rows wait for a chunk",
    "rewrite": "rewrites its tables, which needs their size again on disk; reads and writes wait",
}
assert tuple(KINDS) == get_args(Kind)


@dataclass(frozen=True)
class Needs:
    """What a migration needs.

    Attributes
    ----------
    kind
        What it does to its tables: one of `KINDS`, the heaviest that applies.
    oldest_code
        The oldest revision whose code works on the schema that the migration leaves. An additive
        migration names the oldest one that is supported; one that removes something names the first
        whose code no longer uses that.
    tables
        The existing tables that it locks, reads or rewrites, with their schema.
    """

    kind: Kind
    oldest_code: str
    tables: tuple[str, ...] = ()


def needs_of(migration: ModuleType) -> Needs | None:
    """What a migration declares, if anything."""
    needs = getattr(migration, "needs", None)
    return needs if isinstance(needs, Needs) else None


def oldest_code(chain: Iterable[tuple[str, Needs | None]]) -> str | None:
    """The oldest revision whose code works after these migrations, None if none of them says.

    `chain` has every migration so far with what it needs, the first one first: what an earlier one
    has removed is missing for good.
    """
    positions: dict[str, int] = {}
    oldest = -1
    for position, (revision, needs) in enumerate(chain):
        positions[revision] = position
        if needs is not None:  # one that is not in the chain is a mistake: no older code may work
            oldest = max(oldest, positions.get(needs.oldest_code, position))
    return None if oldest < 0 else list(positions)[oldest]
