"""Health checks: one that cannot be made has failed, and takes no other with it."""

import psycopg

from runyard.processes import checks


def test_a_check_that_cannot_be_made_has_failed_and_the_others_are_told(store_url: str) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE daemon_heartbeats RENAME TO away")
        try:
            results = {check.name: check for check in checks.checks()}
        finally:
            connection.execute("ALTER TABLE away RENAME TO daemon_heartbeats")
    assert not results["daemon"].ok
    assert results["database"].ok


def test_a_check_that_cannot_be_made_tells_no_secret() -> None:
    def check() -> str:
        raise OSError("postgresql://me:hunter2secret@db/shop is away")

    assert checks._check("broker", check) == checks.Check(
        "broker", False, "OSError: postgresql://me:[redacted]@db/shop is away"
    )
