"""Warm workers with another log manager in `dagster.yaml`: Dagster's own, or one for a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runyard.engine.status import OPEN_BATCH
from tests.conftest import wait_until
from tests.deploy.roles import Deployment, Role, deployed_with_redis
from tests.deploy.talking import CODE, Started, Web, process_of, run_of, start_web
from tests.tables import rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Code server and daemon, on hosts of their own."""
    folder = tmp_path_factory.mktemp("log_managers")
    with deployed_with_redis(server, "log_managers", CODE, folder) as made:
        yield made


def managers(folder: Path) -> dict[str, dict[str, Any]]:
    """The sections of `dagster.yaml` that are tried."""
    (folder / "store").mkdir()
    return {
        "local": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(folder / "shared")},
        },
        "store": {
            "module": "tests.deploy.folder_logs",
            "class": "FolderComputeLogManager",
            "config": {"local": str(folder / "local"), "store": str(folder / "store")},
        },
    }


@pytest.fixture(scope="module", params=["local", "store"])
def hosts(
    deployment: Deployment, request: pytest.FixtureRequest, tmp_path_factory: Any
) -> Iterator[tuple[Web, Role]]:
    """A worker and a web process with another log manager."""
    version = request.param
    deployment.add_version(version, CODE)
    path = deployment.folder / version / "dagster.yaml"
    content = yaml.safe_load(path.read_text())
    content["compute_logs"] = managers(tmp_path_factory.mktemp(version))[version]
    path.write_text(yaml.safe_dump(content))
    worker = deployment.start_worker(version, slots=1)
    yield start_web(deployment, version), worker
    worker.stop()


def test_what_a_run_prints_is_shown_while_it_works(hosts: tuple[Web, Role], tmp_path: Path) -> None:
    web, _ = hosts
    started = Started(tmp_path)
    key = run_of(started, web)
    assert web.output(key)["stdout"] == "begun\na child\n"
    assert started.let_go() == "succeeded"


def test_what_a_run_has_printed_is_shown(hosts: tuple[Web, Role], tmp_path: Path) -> None:
    web, _ = hosts
    started = Started(tmp_path)
    key = web.key(started.run_id)
    assert started.let_go() == "succeeded"
    wait_until(lambda: web.output(key)["stdout"] == "begun\na child\n\nthe end\n")
    assert web.output(key)["stderr"] == "begun with a warning\na child warns\n"


def test_the_next_run_has_its_own_output(hosts: tuple[Web, Role], tmp_path: Path) -> None:
    web, _ = hosts
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        started = Started(folder, says=f"number {number}")
        key = web.key(started.run_id)
        started.let_go()
        wait_until(lambda of=key: "the end" in web.output(of)["stdout"])
        assert web.output(key)["stdout"].count("begun") == 1
        assert f"number {number}" in web.output(key)["stdout"]


def test_keeping_the_output_takes_no_process(hosts: tuple[Web, Role], tmp_path: Path) -> None:
    web, _ = hosts
    started = Started(tmp_path)
    run_of(started, web)
    assert process_of(started.run_id).children() == []
    started.let_go()


def test_a_killed_process_ends_its_run_and_the_event_goes_on(
    hosts: tuple[Web, Role], tmp_path: Path
) -> None:
    web, _ = hosts
    started = Started(tmp_path)
    run_of(started, web)
    process_of(started.run_id).kill()
    assert started.let_go() == "succeeded"
    open_batches = "SELECT FROM runyard.batches WHERE status = ANY (%s)"
    wait_until(lambda: not rows(open_batches, list(OPEN_BATCH)))
