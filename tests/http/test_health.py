"""What probes ask a web process: is it alive, can it accept events, and are these executed."""

from tests.web_process import WebProcess


def test_a_web_process_is_ready_without_workers_and_daemon(web: WebProcess) -> None:
    answer = web.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"database", "migrations", "keys"}


def test_all_checks_include_what_executes_events(web: WebProcess) -> None:
    answer = web.get("/readyz?all=true")
    assert answer.status_code == 503
    failed = {name for name, check in answer.json()["checks"].items() if not check["ok"]}
    assert "workers" in failed
    assert failed.isdisjoint({"database", "migrations", "keys"})


def test_an_unknown_parameter_is_refused(web: WebProcess) -> None:
    assert web.get("/readyz?al=true").status_code == 400
