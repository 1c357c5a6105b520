"""What a run prints on one host is shown by the UI of another: all they share is PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.deploy.roles import Deployment, Role, deployed_with_redis
from tests.deploy.talking import CODE, Started, Web, process_of, run_of, start_web
from tests.process_tree import kill_tree
from tests.tables import rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Code server and daemon, on hosts of their own."""
    folder = tmp_path_factory.mktemp("run_output")
    with deployed_with_redis(server, "run_output", CODE, folder) as made:
        yield made


@pytest.fixture(scope="module")
def web(deployment: Deployment) -> Web:
    """The web process, on another host than the worker."""
    return start_web(deployment)


@pytest.fixture(scope="module")
def worker(deployment: Deployment) -> Role:
    """A worker, on a host of its own."""
    return deployment.start_worker("only", RUNYARD_RUN_OUTPUT_BYTES="100000")


def files(deployment: Deployment) -> list[str]:
    """The files with output on all hosts."""
    return [path.name for path in deployment.folder.glob("data-*/output/*")]


def test_what_a_run_prints_is_shown_while_it_works(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    assert web.output(key)["stdout"] == "begun\na child\n"
    assert web.output(key)["stderr"] == "begun with a warning\na child warns\n"
    assert started.let_go() == "succeeded"


def test_what_it_prints_later_follows(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    cursor = web.output(key)["cursor"]
    started.let_go()
    assert wait_until(lambda: web.output(key, cursor)["stdout"]) == "\nthe end\n"
    assert web.output(key)["stdout"] == "begun\na child\n\nthe end\n"


def test_an_open_page_is_sent_what_is_printed(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    sent = web.watch(run_of(started, web))
    assert next(sent) == "begun\na child\n"
    started.let_go()
    assert next(sent) == "\nthe end\n"
    sent.close()


def test_the_ui_has_a_download_of_it(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    assert web.download(key).text == "begun\na child\n"
    started.let_go()
    wait_until(lambda: web.download(key).text == "begun\na child\n\nthe end\n")


def test_the_files_of_a_run_that_has_ended_are_deleted(
    deployment: Deployment, web: Web, worker: Role, tmp_path: Path
) -> None:
    started = Started(tmp_path)
    run_of(started, web)
    assert len([name for name in files(deployment) if started.run_id in name]) == 2
    started.let_go()
    wait_until(lambda: not [name for name in files(deployment) if started.run_id in name])


def test_the_middle_of_a_long_output_is_left_out(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path, size=1_000_000)
    key = run_of(started, web)
    started.let_go()
    shown = wait_until(lambda: "the end" in (now := web.output(key)["stdout"]) and now)
    assert shown.startswith("begun\na child\n")
    assert "bytes are left out here]\n" in shown
    assert len(shown) < 100_200


def test_a_run_that_prints_nothing_has_no_rows(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path, silent=True)
    assert started.let_go() == "succeeded"
    key = web.key(started.run_id)
    assert web.output(key)["stdout"] == ""
    assert rows("SELECT FROM runyard.run_output WHERE key LIKE %s", f"{started.run_id}/%") == []


def test_a_step_that_replaces_its_streams_takes_none_from_later_runs(
    web: Web, worker: Role, tmp_path: Path
) -> None:
    # Both processes of the worker are busy until the gate opens.
    replacing = [Started(tmp_path, replaces=True) for _ in range(2)]
    for each in replacing:
        run_of(each, web)
    assert [each.let_go() for each in replacing] == ["succeeded"] * 2
    later = Started(tmp_path)
    assert later.let_go() == "succeeded"
    key = web.key(later.run_id)
    wait_until(lambda: web.output(key)["stdout"] == "begun\na child\n\nthe end\n")


def test_the_output_of_a_killed_process_is_stored_by_its_worker(
    deployment: Deployment, web: Web, worker: Role, tmp_path: Path
) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    [path] = deployment.folder.glob(f"data-*/output/{started.run_id}*.out")
    with path.open("a") as file:
        file.write("its last words")
    kill_tree(process_of(started.run_id).pid)
    wait_until(lambda: web.output(key)["stdout"] == "begun\na child\nits last words", 60)
    wait_until(lambda: not path.exists())
    started.let_go()


def test_what_was_printed_before_a_host_is_lost_stays(
    deployment: Deployment, web: Web, worker: Role, tmp_path: Path
) -> None:
    (tmp_path / "busy").mkdir()
    # Both processes of the worker that stays are busy: the next run goes to the one that is lost.
    busy = [Started(tmp_path / "busy") for _ in range(2)]
    for each in busy:
        run_of(each, web)
    lost = deployment.start_worker("only", slots=1)
    started = Started(tmp_path)
    key = run_of(started, web)
    assert process_of(started.run_id).ppid() == lost.pid
    kill_tree(lost.pid)
    assert web.output(key)["stdout"] == "begun\na child\n"
    assert [each.let_go() for each in [*busy, started]] == ["succeeded"] * 3
