"""What probes ask a web process: is it alive, can it accept events, and are these executed."""

import psycopg

from tests.conftest import wait_until
from tests.web_process import WebProcess


def failed_checks(web: WebProcess) -> set[str]:
    """The names of the checks that have not passed."""
    checks = web.get("/readyz?all=true").json()["checks"]
    return {name for name, check in checks.items() if not check["ok"]}


def test_a_web_process_is_ready_without_workers_and_daemon(web: WebProcess) -> None:
    answer = web.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"database", "migrations", "keys"}


def test_all_checks_include_what_executes_events(web: WebProcess) -> None:
    assert web.get("/readyz?all=true").status_code == 503
    failed = failed_checks(web)
    assert "workers" in failed
    assert failed.isdisjoint({"database", "migrations", "keys"})


def test_a_check_that_does_not_end_holds_no_request(web: WebProcess, web_database_url: str) -> None:
    assert "database" not in failed_checks(web)
    with psycopg.connect(web_database_url) as connection:
        connection.execute("LOCK TABLE runyard.workers")
        wait_until(lambda: "database" in failed_checks(web), 30)
    wait_until(lambda: "database" not in failed_checks(web), 30)


def test_an_unknown_parameter_is_refused(web: WebProcess) -> None:
    assert web.get("/readyz?al=true").status_code == 400
