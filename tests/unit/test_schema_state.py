"""Which code works on which schema, and what it is told."""

import pytest

from runyard.errors import SchemaOutOfDate, SchemaUnusable
from runyard.store.migration_needs import Needs, oldest_code
from runyard.store.schema_state import Compatibility, Recorded, SchemaState

ADDS = Needs("catalog", oldest_code="0001")
KNOWN = ("0001", "0002")


def state(current: str | None, recorded: Recorded | None = None) -> SchemaState:
    return SchemaState("runyard", current, KNOWN, recorded)


def test_additive_migrations_work_with_the_first_code() -> None:
    assert oldest_code([("0001", ADDS), ("0002", ADDS), ("0003", ADDS)]) == "0001"


def test_what_one_migration_has_removed_stays_missing_after_additive_ones() -> None:
    removes = Needs("catalog", oldest_code="0002")
    assert (
        oldest_code([("0001", ADDS), ("0002", ADDS), ("0003", removes), ("0004", ADDS)]) == "0002"
    )


def test_migrations_that_say_nothing_exclude_no_code() -> None:
    assert oldest_code([("0001", None), ("0002", None)]) is None


def test_an_unknown_oldest_code_excludes_all_code_but_the_migrations_own() -> None:
    misspelt = Needs("catalog", oldest_code="001")
    assert oldest_code([("0001", ADDS), ("0002", misspelt)]) == "0002"


@pytest.mark.parametrize(
    ("current", "recorded", "compatibility"),
    [
        ("0002", None, Compatibility.CURRENT),
        ("0001", None, Compatibility.BEHIND),
        (None, None, Compatibility.BEHIND),
        ("0004", Recorded("0004", "0002", "0.2.0"), Compatibility.AHEAD),
        ("0004", Recorded("0004", None, "0.2.0"), Compatibility.AHEAD),
        ("0004", Recorded("0004", "0003", "0.2.0"), Compatibility.TOO_NEW),
        ("0004", Recorded("0003", "0001", "0.2.0"), Compatibility.TOO_NEW),
        ("0004", None, Compatibility.TOO_NEW),
    ],
)
def test_a_schema_is_compatible_with_the_code_or_not(
    current: str | None, recorded: Recorded | None, compatibility: Compatibility
) -> None:
    assert state(current, recorded).compatibility is compatibility


def test_a_schema_from_before_the_first_release_is_refused_with_what_to_do() -> None:
    unreleased = SchemaState("runyard", "0002", KNOWN, lacks="runyard.events.id")
    with pytest.raises(
        SchemaUnusable, match=r"has no runyard\.events\.id.*`runyard delete-database`"
    ):
        unreleased.check()


def test_an_older_schema_is_refused_with_the_command_to_run() -> None:
    with pytest.raises(SchemaOutOfDate, match="the code needs 0002: run `runyard migrate`"):
        state("0001").check()


def test_a_schema_that_is_too_new_is_refused_with_the_version_that_made_it() -> None:
    with pytest.raises(SchemaUnusable, match=r"Runyard 0\.2\.0 made it\. It needs code of 0003"):
        state("0004", Recorded("0004", "0003", "0.2.0")).check()


def test_a_newer_schema_on_which_the_code_works_is_not_refused() -> None:
    state("0004", Recorded("0004", "0001", "0.2.0")).check()
