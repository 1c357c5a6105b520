"""Health checks: one that cannot be made has failed, and takes no other with it."""

from runyard.processes import checks
from tests.tables import table_away


def test_a_check_that_cannot_be_made_has_failed_and_the_others_are_told(store_url: str) -> None:
    with table_away(store_url, "daemon_heartbeats"):
        results = {check.name: check for check in checks.checks()}
    assert not results["daemon"].ok
    assert results["database"].ok


def test_a_check_that_cannot_be_made_tells_no_secret() -> None:
    def check() -> str:
        raise OSError("postgresql://me:hunter2secret@db/shop is away")

    assert checks._check("broker", check) == checks.Check(
        "broker", False, "OSError: postgresql://me:[redacted]@db/shop is away"
    )
