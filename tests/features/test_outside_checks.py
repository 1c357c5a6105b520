"""The doctor sees whether the collector of traces and the receivers of alerts can be reached."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from runyard.processes.outside_checks import outside_checks
from runyard.settings import settings
from tests.collector import Collector
from tests.fake_service import FakeService
from tests.features.command_line import runyard

PATH = "/services/T0/B0/secret-of-the-webhook"
NOWHERE = "127.0.0.1:9"


@pytest.fixture
def variables() -> Iterator[pytest.MonkeyPatch]:
    """Sets environment variables, which `outside_checks` then reads."""
    settings.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        yield patched
    settings.cache_clear()


@pytest.fixture
def collector(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    """The collector that the variables name."""
    with Collector() as made:
        variables.setenv("RUNYARD_TRACES", "otlp")
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        yield made


@pytest.fixture
def receiver(variables: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """The receiver that the variables name."""
    with FakeService() as made:
        made.answers[PATH] = 405, b"", {}
        variables.setenv("RUNYARD_ALERTS", made.url + PATH)
        yield made


def test_nothing_is_checked_that_is_not_set(variables: pytest.MonkeyPatch) -> None:
    assert outside_checks() == []


def test_a_collector_that_takes_traces_is_well_and_gets_no_span(collector: Collector) -> None:
    [check] = outside_checks()
    assert check.ok
    assert check.says == f"the collector at {collector.url} takes them"
    assert collector.requests == 1
    assert collector.spans == []


@pytest.mark.parametrize("mode", ["refuses", "redirects", "hangs"])
def test_a_collector_that_takes_no_traces_is_not_well(collector: Collector, mode: str) -> None:
    collector.mode = mode
    [check] = outside_checks()
    assert not check.ok
    assert check.says.startswith(f"the collector at {collector.url} takes none (")


# Not ru_maxrss: in a child it starts at its parent's peak.
_ASKING = """
from pathlib import Path
from runyard.tracing.collector import problem_with_collector

problem_with_collector()
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(peak.split()[1])
"""


def test_an_answer_without_end_is_not_read_whole(collector: Collector) -> None:
    collector.mode = "never ends"
    asked = subprocess.run(
        [sys.executable, "-c", _ASKING], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(asked.stdout) < 500_000  # KiB


def test_nothing_secret_is_said_of_a_collector(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("RUNYARD_TRACES", "otlp")
    variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://ada:hidden-1@{NOWHERE}/hidden-2")
    variables.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hidden-4")
    [check] = outside_checks()
    assert f"the collector at http://{NOWHERE} takes none" in check.says
    assert "hidden" not in check.says


def test_a_receiver_that_answers_is_well_and_is_told_nothing(receiver: FakeService) -> None:
    [check] = outside_checks()
    assert check.ok
    assert check.says == "127.0.0.1 answers; `runyard alerts test` sends it a test alert"
    assert receiver.asked == [("HEAD", PATH)]


def test_a_receiver_that_does_not_answer_is_named_by_its_host_alone(
    variables: pytest.MonkeyPatch,
) -> None:
    variables.setenv("RUNYARD_ALERTS", f"http://{NOWHERE}{PATH}")
    [check] = outside_checks()
    assert not check.ok
    assert check.says.startswith("127.0.0.1 cannot be reached: Connection refused; ")
    assert "RUNYARD_ALERTS" in check.says
    assert "secret" not in check.says


def test_each_receiver_is_checked(receiver: FakeService, variables: pytest.MonkeyPatch) -> None:
    receivers = f"http://{NOWHERE}/,{receiver.url}{PATH},mailto:ops@example.com"
    variables.setenv("RUNYARD_ALERTS", receivers)
    assert [check.ok for check in outside_checks()] == [False, True, True]


@pytest.mark.parametrize(
    ("module", "lacks"),
    [("tests.code", "tests.code has no send"), ("nowhere", "there is no module nowhere")],
)
def test_a_mail_needs_a_mailer(variables: pytest.MonkeyPatch, module: str, lacks: str) -> None:
    variables.setenv("RUNYARD_ALERTS", "mailto:ops@example.com")
    variables.setenv("RUNYARD_MAIL", module)
    [check] = outside_checks()
    assert not check.ok
    assert f"no alert can be mailed to ops@example.com: {lacks}; write a module" in check.says


def test_the_doctor_prints_a_line_of_each_and_fails() -> None:
    ended = runyard(
        "doctor",
        RUNYARD_TRACES="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{NOWHERE}",
        RUNYARD_ALERTS=f"http://{NOWHERE}{PATH}",
    )
    last = [line.split()[:2] for line in ended.stdout.splitlines()][-2:]
    assert last == [["FAIL", "traces"], ["FAIL", "alerts"]]
    assert ended.returncode == 1
