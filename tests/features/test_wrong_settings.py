"""Wrong environment variables: a line says which one, and what to write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.features.command_line import runyard

# What doctor prints before it says what is wrong with the settings.
_CHECKED = "ok    database "


@pytest.mark.parametrize("command", ["migrate", "doctor", "up", "events", "daemon"])
@pytest.mark.parametrize("url", ["host=localhost dbname=app password=hunter2secret", "", "app"])
def test_a_database_that_is_not_given_by_a_url_is_one_line(command: str, url: str) -> None:
    ended = runyard(command, DATABASE_URL=url)
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith("runyard: DATABASE_URL: not a URL of PostgreSQL: write postgresql://")
    assert "hunter2secret" not in line


def test_a_direct_database_that_is_not_given_by_a_url_is_one_line() -> None:
    ended = runyard("migrate", RUNYARD_DIRECT_DATABASE_URL="host=localhost")
    [line] = ended.stderr.splitlines()
    assert line.startswith("runyard: RUNYARD_DIRECT_DATABASE_URL: not a URL of PostgreSQL")


@pytest.mark.parametrize("name", ["DATABASE_URL", "RUNYARD_BROKER_URL"])
def test_a_url_whose_password_is_not_encoded_is_one_line_without_any_of_it(name: str) -> None:
    ended = runyard("doctor", **{name: "postgresql://shop:Tr0ub4dor/3xtra@db.invalid/shop"})
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"runyard: {name}: ")
    assert "percent-encode special characters of the user and the password" in line
    assert "3xtra" not in line


@pytest.mark.parametrize("command", ["doctor", "up", "worker"])
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RUNYARD_TRACES", "on", "RUNYARD_TRACES: "),
        ("RUNYARD_TRACE_URL", "https://tempo.example", "RUNYARD_TRACE_URL: not an http or https"),
        ("OTEL_TRACES_SAMPLER", "mine", "OTEL_TRACES_SAMPLER is 'mine': choose one of always_on"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', but"),
        ("RUNYARD_ALERTS", "http://[::1/x", "RUNYARD_ALERTS: not a list of receivers: write"),
        ("RUNYARD_ALERTS", "http://host:99999/", "RUNYARD_ALERTS: not a list of receivers: write"),
    ],
)
def test_a_wrong_option_of_monitoring_is_one_line(
    command: str, name: str, value: str, says: str
) -> None:
    ended = runyard(command, **{"RUNYARD_TRACES": "otlp", name: value})
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith(f"runyard: {says}")


def test_traces_without_their_package_are_one_line_that_says_what_to_install(
    tmp_path: Path,
) -> None:
    # A package of this name in front of the other one, as if that were not there.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    ended = runyard("doctor", RUNYARD_TRACES="otlp", PYTHONPATH=f"{tmp_path}:{ROOT}")
    [line] = ended.stderr.splitlines()
    assert line == (
        "runyard: traces need OpenTelemetry, which is not installed: pip install"
        " 'runyard[traces]', or unset RUNYARD_TRACES"
    )


def test_doctor_names_the_setting_that_a_misspelt_variable_was_meant_for() -> None:
    says = runyard("doctor", RUNYARD_CONCURENCY="8").stdout
    assert (
        "warn  settings        RUNYARD_CONCURENCY is not a setting, and is ignored:"
        " did you mean RUNYARD_CONCURRENCY?\n"
    ) in says


@pytest.mark.usefixtures("yard")
def test_variables_that_are_not_settings_but_have_a_meaning_are_not_named() -> None:
    says = runyard("doctor", RUNYARD_KEY="key", RUNYARD_TEST_DATABASE_URL="postgresql:///").stdout
    assert _CHECKED in says
    assert "is not a setting" not in says


@pytest.mark.usefixtures("yard")
def test_variables_of_the_project_itself_are_not_named() -> None:
    says = runyard("doctor", RUNYARD_BANK_URL="x").stdout
    assert _CHECKED in says
    assert "is not a setting" not in says


def test_code_that_does_not_load_because_of_a_setting_is_one_line_without_a_traceback(
    tmp_path: Path,
) -> None:
    serving = (
        "from runyard.processes import code_server, module_server\n"
        "module_server.grpc_command.invoke = lambda *_, **__: None\n"
        f"code_server.serve_code(['--socket', {str(tmp_path / 'socket')!r}], beside=False)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", serving],
        env={**os.environ, "ANALYTICS_START": "yesterday"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    first, *rest = ended.stderr.splitlines()
    assert first.endswith("ANALYTICS_START is not a date: yesterday; write it as 2026-01-31")
    assert "Traceback" not in "".join(rest)
