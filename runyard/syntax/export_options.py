"""How spans are exported, by OpenTelemetry's variables of exporters and of batches."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

# How long one export may take, and so the last one of a process.
EXPORT_SECONDS = 2.0
_PREFIX, _OF_TRACES = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
_DEFAULT_ENDPOINT = "http://localhost:4318"
_PATH = "/v1/traces"
_FILES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
_COMPRESSIONS = ("none", "gzip", "deflate")
_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
_QUEUE = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_CREDENTIALS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)
_DEFAULT_DELAY = 1_000
# A batch of hundreds of invocations ends with thousands of spans at once.
_DEFAULT_QUEUE = 16_384
_DEFAULT_BATCH = 2_048
_MOST = 999_999_999
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# `urlsplit` removes some of these, and servers are asked for the rest.
_UNUSUAL = re.compile(r"[\s\x00-\x20\x7f]")
# A name as HTTP wants it, and a value without control characters.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ *=[^\x00-\x1f\x7f]*")


@dataclass(frozen=True)
class ExportOptions:
    """Where spans are exported to, and in what portions.

    Attributes
    ----------
    url
        Where requests are posted.
    headers
        What they have besides.
    certificate, client_certificate, client_key
        Files in PEM: whose certificates are trusted, and what this client shows; empty for none.
    compression
        `none`, `gzip` or `deflate`.
    delay
        How many seconds a span waits for others at most.
    queue, batch
        How many spans may wait, and how many a request has at most.
    """

    url: str
    headers: Mapping[str, str]
    certificate: str
    client_certificate: str
    client_key: str
    compression: str
    delay: float
    queue: int
    batch: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return what these variables say, of which `problem_with_export` finds nothing."""
        queue = int(environment.get(_QUEUE) or _DEFAULT_QUEUE)
        return cls(
            url=environment.get(f"{_OF_TRACES}ENDPOINT")
            or endpoint(environment).rstrip("/") + _PATH,
            headers=_headers(_option(environment, "HEADERS")),
            certificate=_option(environment, "CERTIFICATE"),
            client_certificate=_option(environment, "CLIENT_CERTIFICATE"),
            client_key=_option(environment, "CLIENT_KEY"),
            compression=_option(environment, "COMPRESSION").lower() or "none",
            delay=int(environment.get(_DELAY) or _DEFAULT_DELAY) / 1000,
            queue=queue,
            batch=int(environment.get(_BATCH) or min(queue, _DEFAULT_BATCH)),
        )


def endpoint(environment: Mapping[str, str]) -> str:
    """Return the URL of the collector, as the variables name it."""
    return _option(environment, "ENDPOINT") or _DEFAULT_ENDPOINT


def problem_with_export(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the variables, and what to do; None if nothing is."""
    return (
        _problem_with_collector(environment)
        or _problem_with_headers(environment)
        or _problem_with_files(environment)
        or _problem_with_batches(environment)
    )


def is_http_url(url: str) -> bool:
    """Return whether a text is an http or https URL with a host."""
    try:
        if _UNUSUAL.search(url):
            return False
        parts = urlsplit(url)
        is_port = parts.port is None or parts.port > 0  # one that is none raises
        return parts.scheme in ("http", "https") and bool(parts.hostname) and is_port
    except ValueError:
        return False


def _option(environment: Mapping[str, str], name: str) -> str:
    return environment.get(_OF_TRACES + name) or environment.get(_PREFIX + name) or ""


def _set(environment: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    """The variables of this name that are set, those of traces and of all, and their values."""
    names = (_OF_TRACES + name, _PREFIX + name)
    return [(name, environment[name]) for name in names if environment.get(name)]


def _headers(text: str) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in _parts(text))
    return {unquote(name).strip(): unquote(value).strip() for name, value in pairs}


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _problem_with_collector(environment: Mapping[str, str]) -> str | None:
    for name, url in _set(environment, "ENDPOINT"):
        if not is_http_url(url):
            return f"{name} is not an http or https URL: give it as {_DEFAULT_ENDPOINT}"
        if name.startswith(_PREFIX + "ENDPOINT") and {"?", "#"} & set(url):
            return (
                f"{name} has a ? or #, but {_PATH} follows it: give the whole URL in"
                f" {_OF_TRACES}ENDPOINT"
            )
    for name, protocol in _set(environment, "PROTOCOL"):
        if protocol != "http/protobuf":
            return (
                f"{name} is {protocol!r}, but traces are sent as http/protobuf: unset it, and name"
                " the port of the collector for HTTP, usually 4318"
            )
    for name, compression in _set(environment, "COMPRESSION"):
        if compression.lower() not in _COMPRESSIONS:
            return f"{name} is {compression!r}: choose one of {', '.join(_COMPRESSIONS)}"
    return None


def _problem_with_headers(environment: Mapping[str, str]) -> str | None:
    for name in _CREDENTIALS:
        if environment.get(name):
            return f"{name} is not supported: give credentials in {_PREFIX}HEADERS, and unset it"
    for name, headers in _set(environment, "HEADERS"):
        parts = _parts(headers)
        if not all("=" in part and _HEADER.fullmatch(unquote(part)) for part in parts):
            return f"{name} has no headers: write them as name=value,name=value"
    return None


def _problem_with_files(environment: Mapping[str, str]) -> str | None:
    for option in _FILES:
        for name, path in _set(environment, option):
            if not Path(path).is_file():
                return f"{name} is {path!r}, which is no file: give the path of one in PEM"
    if _option(environment, "CLIENT_KEY") and not _option(environment, "CLIENT_CERTIFICATE"):
        return f"{_PREFIX}CLIENT_KEY is set without {_PREFIX}CLIENT_CERTIFICATE: set both"
    return None


def _problem_with_batches(environment: Mapping[str, str]) -> str | None:
    for name in (_DELAY, _QUEUE, _BATCH):
        value = environment.get(name, "")
        if value and not _NUMBER.fullmatch(value):
            return f"{name} is {value!r}: give a whole number from 1 to {_MOST}, or unset it"
    options = ExportOptions.from_environment(environment)
    if options.batch > options.queue:
        return (
            f"{_BATCH} is {options.batch}, but only {options.queue} spans may wait for a request:"
            f" make it smaller, or {_QUEUE} larger"
        )
    return None
