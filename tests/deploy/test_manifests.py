"""The files of `deploy/` are what their tools accept, and say the same as the code."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from resources.settings import MediaSettings
from runyard.cli import configuration
from runyard.cli.main import main
from runyard.settings import Settings
from runyard.syntax.durations import seconds
from tests.conftest import ROOT
from tests.deploy.manifests import (
    DEPLOY,
    commented_out,
    compose,
    copied_into_the_image,
    env_file,
    objects,
)

_KUBERNETES = "1.31"
# Kinds that are not of Kubernetes itself.
_OTHERS = ("keda.sh", "kustomize.config.k8s.io")
_UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# Variables of other programs: of Python, pip and Dagster in the image, and of PostgreSQL's image.
_NOT_OURS = {"DAGSTER_HOME", "PATH", "PYTHONUNBUFFERED", "POSTGRES_DB", "POSTGRES_USER"}
_NOT_OURS |= {"PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "POSTGRES_PASSWORD"}
# The roles that finish what they have begun before they stop.
_DRAINS = {"api", "web", "worker"}
# docs/deployment.md, and some more for what the functions themselves take.
_WORKER_MEGABYTES = 512


def _of(kind: str) -> list[dict[str, Any]]:
    return [each for each in objects() if each["kind"] == kind]


def _containers() -> list[dict[str, Any]]:
    """The containers of every Deployment and Job."""
    workloads = [*_of("Deployment"), *_of("Job")]
    return [each for load in workloads for each in load["spec"]["template"]["spec"]["containers"]]


def test_the_dockerfile_has_no_lint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_the_image_copies_exists_and_is_let_through_to_the_build() -> None:
    let_through = set((ROOT / ".dockerignore").read_text().splitlines())
    for path, _ in copied_into_the_image():
        assert path.exists()
        assert f"!{path.relative_to(ROOT)}" in let_through


def test_the_compose_file_is_valid() -> None:
    PyCompose.from_yaml(yaml.safe_dump(compose())).validate()


def test_the_compose_file_takes_no_secret_but_from_files() -> None:
    names = {
        name for each in compose()["services"].values() for name in each.get("environment", {})
    }
    assert not {name for name in names if re.search("PASSWORD|SECRET|KEY|URL", name)}


def test_the_database_is_healthy_only_when_other_containers_reach_it() -> None:
    # While the image creates the database, its server listens on the socket alone.
    [_, command] = compose()["services"]["postgres"]["healthcheck"]["test"]
    assert "--host=127.0.0.1" in shlex.split(command)


@pytest.mark.parametrize(
    "manifest",
    [each for each in objects() if each["apiVersion"].partition("/")[0] not in _OTHERS],
    ids=lambda each: f"{each['kind']}-{_name(each)}",
)
def test_kubernetes_objects_have_the_fields_of_their_kinds(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, _KUBERNETES, strict=True)


def _name(manifest: dict[str, Any]) -> str:
    return str(manifest.get("metadata", {}).get("name", ""))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["base", "keda", "migrate"])
def test_kustomize_renders_every_folder(folder: str) -> None:
    assert shutil.which("kubectl"), "this test needs kubectl: apt-get install kubernetes-client"
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kubernetes" / folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"]["namespace"] for each in rendered} == {"runyard"}


def test_every_selector_finds_the_pods_of_its_own_deployment() -> None:
    labels = {
        _name(each): each["spec"]["template"]["metadata"]["labels"] for each in _of("Deployment")
    }
    for each in _of("Deployment"):
        assert each["spec"]["selector"]["matchLabels"] == labels[_name(each)]
    for each in _of("Service"):
        assert each["spec"]["selector"] == labels[_name(each)]
    for each in _of("PodDisruptionBudget"):
        assert each["spec"]["selector"]["matchLabels"] == labels[_name(each)]


def test_the_scaler_names_a_deployment_that_leaves_its_replicas_to_it() -> None:
    [scaled] = _of("ScaledObject")
    [worker] = [each for each in _of("Deployment") if _name(each) == "worker"]
    assert scaled["spec"]["scaleTargetRef"] == {"name": "worker"}
    assert "replicas" not in worker["spec"]


def test_the_triggers_of_the_scaler_have_the_fields_of_kedas_postgresql_scaler() -> None:
    [scaled] = _of("ScaledObject")
    [authentication] = _of("TriggerAuthentication")
    [secret] = authentication["spec"]["secretTargetRef"]
    assert secret["parameter"] == "connection"
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "postgresql"
        assert trigger["authenticationRef"] == {"name": _name(authentication)}
        assert set(trigger["metadata"]) == {"query", "targetQueryValue"}


def _grace_seconds() -> Iterator[tuple[str, float]]:
    """How long each process that drains may take to stop, less what passes before it is told."""
    for name, service in compose()["services"].items():
        if name in _DRAINS:
            yield f"compose {name}", seconds(service["stop_grace_period"], "stop_grace_period")
    for deployment in _of("Deployment"):
        if _name(deployment) in _DRAINS:
            pod = deployment["spec"]["template"]["spec"]
            yield (
                f"kubernetes {_name(deployment)}",
                pod["terminationGracePeriodSeconds"] - _pre_stop_seconds(pod),
            )
    for name in _DRAINS:
        unit = (DEPLOY / "systemd" / f"runyard-{name}.service").read_text()
        [grace] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
        yield f"systemd {name}", float(grace)


def _pre_stop_seconds(pod: dict[str, Any]) -> float:
    [container] = pod["containers"]
    pre_stop = container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    command, slept = pre_stop["exec"]["command"]
    assert command == "sleep"
    return float(slept)


@pytest.mark.parametrize("prefix", ["compose ", "kubernetes ", "systemd "])
def test_every_process_that_drains_has_a_time_for_it(prefix: str) -> None:
    names = {name.removeprefix(prefix) for name, _ in _grace_seconds() if name.startswith(prefix)}
    assert names == _DRAINS


def test_every_process_that_drains_gets_the_time_for_it() -> None:
    drain = Settings.model_fields["drain_timeout"].default
    assert [name for name, grace in _grace_seconds() if grace < drain + 5] == []


def test_a_worker_of_kubernetes_has_the_memory_for_what_its_slots_decode() -> None:
    [worker] = [each for each in _containers() if each["name"] == "worker"]
    variables = {each["name"]: int(each["value"]) for each in worker["env"]}
    processes = variables["RUNYARD_CONCURRENCY"] * variables["MEDIA_PROCESSES"]
    decoding = processes * MediaSettings.model_fields["media_memory_mb"].default
    limit = re.fullmatch(r"(\d+)Gi", worker["resources"]["limits"]["memory"])
    assert limit is not None
    assert decoding + _WORKER_MEGABYTES <= int(limit[1]) * 1024


@pytest.mark.slow
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "this test needs systemd: apt-get install systemd"
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/runyard/bin/runyard", "/bin/true")
        (tmp_path / path.name).write_text(text)
    units = [tmp_path / path.name for path in [*_UNITS, DEPLOY / "systemd" / "runyard.target"]]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def _unit(name: str) -> dict[str, list[str]]:
    """The values of each option of a unit, which may have several."""
    options: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        option, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            options.setdefault(option, []).extend(value.split())
    return options


def test_the_units_start_when_the_database_comes_up_after_the_host() -> None:
    # What a unit requires has to succeed at the first try, or it is never started.
    roles = [path.name for path in _UNITS if path.name != "runyard-migrate.service"]
    for name in roles:
        assert "Requires" not in _unit(name)
        assert "runyard-migrate.service" in _unit(name)["Wants"]
        assert _unit(name)["Restart"] == ["always"]
    assert _unit("runyard-migrate.service")["Restart"] == ["on-failure"]


def test_a_restart_of_the_target_restarts_every_unit() -> None:
    for path in _UNITS:
        assert _unit(path.name)["PartOf"] == ["runyard.target"]


def _commands() -> Iterator[list[str]]:
    """The arguments of every `runyard` that the manifests start."""
    for service in compose()["services"].values():
        if service["image"].startswith("runyard:"):
            yield service["command"]
            yield service.get("healthcheck", {}).get("test", ["CMD", "runyard"])[2:]
    for container in _containers():
        yield container["args"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            yield container.get(probe, {}).get("exec", {}).get("command", ["runyard"])[1:]
    for unit in _UNITS:
        [line] = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        yield shlex.split(line)[1:]


def test_every_command_of_the_manifests_exists_with_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, *arguments in filter(None, _commands()):
        if (name, *arguments[:1]) == ("api", "grpc-health-check"):
            continue  # of `dagster`
        command = main.commands[name]
        for parameter in command.params:  # a file of the host that is deployed to
            if isinstance(parameter.type, click.Path):
                monkeypatch.setattr(parameter.type, "exists", False)
        command.make_context(name, [*arguments])


def _variables() -> Iterator[str]:
    """The names of all variables that the manifests set."""
    for service in compose()["services"].values():
        yield from service.get("environment", {})
    for name in ("postgres.env", "runyard.env"):
        yield from env_file(name)
        yield from commented_out(name)
    for container in _containers():
        yield from (each["name"] for each in container.get("env", []))
    for kustomization in _of("Kustomization"):
        for generator in kustomization.get("configMapGenerator", []):
            yield from (literal.partition("=")[0] for literal in generator["literals"])
    for unit in _UNITS:
        for line in re.findall(r"^Environment=(.*)$", unit.read_text(), re.MULTILINE):
            yield from (word.partition("=")[0] for word in line.split())
    for line in re.findall(r"^ENV (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        yield from (word.partition("=")[0] for word in line.split())


def test_every_variable_that_the_manifests_set_is_a_setting() -> None:
    settings = {
        configuration.variable(section, name, field)
        for section in configuration.sections()
        for name, field in configuration.own_fields(section).items()
    }
    assert set(_variables()) - settings - _NOT_OURS == set()


def test_the_location_of_the_code_has_the_name_that_its_server_gives_it() -> None:
    code = Settings.model_fields["code"].default
    for path in (DEPLOY / "workspace.yaml", DEPLOY / "systemd" / "workspace.yaml"):
        [location] = yaml.safe_load(path.read_text())["load_from"]
        assert location["grpc_server"]["location_name"] == code


def test_the_workspace_names_the_host_and_the_port_of_the_code_server() -> None:
    [location] = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    server = location["grpc_server"]
    service = compose()["services"][server["host"]]
    assert service["command"] == ["code-server", "--port", str(server["port"])]
    [pod] = [each for each in _containers() if each["name"] == server["host"]]
    assert pod["args"] == service["command"]


def test_the_example_of_variables_says_how_to_be_told_of_failures() -> None:
    assert "RUNYARD_ALERTS" in commented_out("runyard.env")
