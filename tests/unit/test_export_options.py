"""OpenTelemetry's variables of exporters: what they mean, and what is said of wrong ones."""

from pathlib import Path

import pytest

from runyard.syntax.export_options import ExportOptions, problem_with_export

PREFIX = "OTEL_EXPORTER_OTLP_"


def options(**variables: str) -> ExportOptions:
    assert problem_with_export(variables) is None
    return ExportOptions.from_environment(variables)


def test_without_variables_the_collector_is_on_this_machine() -> None:
    assert options().url == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize("base", ["https://collector:4318/otlp", "https://collector:4318/otlp/"])
def test_an_endpoint_for_all_is_followed_by_the_path_of_traces(base: str) -> None:
    assert options(OTEL_EXPORTER_OTLP_ENDPOINT=base).url == (
        "https://collector:4318/otlp/v1/traces"
    )


def test_an_endpoint_for_traces_is_the_whole_address() -> None:
    known = options(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://other",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://collector/here",
    )
    assert known.url == "http://collector/here"


def test_headers_are_pairs() -> None:
    known = options(OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b=, x-team = shop,")
    assert known.headers == {"api-key": "a b=", "x-team": "shop"}


def test_a_small_queue_makes_small_requests() -> None:
    known = options(OTEL_BSP_MAX_QUEUE_SIZE="400")
    assert (known.queue, known.batch) == (400, 400)


def test_the_delay_is_in_milliseconds() -> None:
    assert options(OTEL_BSP_SCHEDULE_DELAY="250").delay == 0.25


def test_files_and_compression_are_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    known = options(OTEL_EXPORTER_OTLP_CERTIFICATE=str(file), OTEL_EXPORTER_OTLP_COMPRESSION="GZIP")
    assert known.certificate == str(file)
    assert known.compression == "gzip"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (f"{PREFIX}ENDPOINT", "collector:4318", "is not an http or https URL"),
        (f"{PREFIX}TRACES_ENDPOINT", "http://", "is not an http or https URL"),
        (f"{PREFIX}ENDPOINT", " http://collector:4318", "is not an http or https URL"),
        (f"{PREFIX}ENDPOINT", "http://collector:4318\n", "is not an http or https URL"),
        (f"{PREFIX}ENDPOINT", "http://col lector:4318", "is not an http or https URL"),
        (f"{PREFIX}ENDPOINT", "http://collector:4318?x=1", "give the whole URL in"),
        (f"{PREFIX}PROTOCOL", "grpc", "traces are sent as http/protobuf"),
        (f"{PREFIX}COMPRESSION", "zstd", "choose one of none, gzip, deflate"),
        (f"{PREFIX}HEADERS", "hidden", "write them as name=value"),
        (f"{PREFIX}HEADERS", "na me=hidden", "write them as name=value"),
        (f"{PREFIX}HEADERS", "name%3Dhidden", "write them as name=value"),
        (f"{PREFIX}HEADERS", "name=hidden%0a", "write them as name=value"),
        (f"{PREFIX}CERTIFICATE", "/nowhere.pem", "which is no file"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "give a whole number from 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "9" * 5000, "give a whole number from 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0" * 19 + "1" + "9" * 5000, "give a whole number from 1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1.5", "give a whole number from 1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "20000", "only 16384 spans may wait"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "mine", "is not supported"),
    ],
)
def test_a_wrong_variable_is_named_with_what_to_write(name: str, value: str, says: str) -> None:
    problem = problem_with_export({name: value})
    assert problem is not None
    assert problem.startswith(name)
    assert says in problem
    assert "hidden" not in problem


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.touch()
    problem = problem_with_export({f"{PREFIX}CLIENT_KEY": str(file)})
    assert problem == (
        "OTEL_EXPORTER_OTLP_CLIENT_KEY is set without OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE:"
        " set both"
    )
