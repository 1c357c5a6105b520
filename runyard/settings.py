"""The engine's settings, read once per process from environment variables and pyproject.toml.

`settings()` returns the cached `Settings`. Secrets are `SecretStr`, so they cannot appear in a log,
an error or a page by accident. `runyard configuration` turns the classes of this module into
docs/configuration.md: each class is a section, and each description an entry.
"""

import importlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from runyard import project_file
from runyard.errors import InvalidOption
from runyard.syntax.export_options import is_http_url
from runyard.syntax.retention_policy import Retention
from runyard.syntax.server_urls import problem_with_broker_url, problem_with_postgres_url
from runyard.syntax.trace_options import TRACE_ID, problem_with_traces

# Where the embedded database of a project run by root is stored: PostgreSQL refuses to run as root,
# and the user it runs as cannot enter root's folders.
ROOT_DATABASES = Path("/var/lib/runyard")
# The default of `drain_timeout` under `runyard up`: development is not to wait for a long run at
# each change of the code.
UP_DRAIN_SECONDS = 3.0

_RECEIVER = re.compile(r"https?://[^\s/]+(/\S*)?|mailto:[^\s@]+@[^\s@]+")


def _project_root() -> Path:
    """The folder with `dagster.yaml`: DAGSTER_HOME, or the working directory."""
    return Path(os.environ.get("DAGSTER_HOME") or Path.cwd()).resolve()


def _split(value: object) -> object:
    """Return the parts of a text between commas, and anything else as it is."""
    return _parts(value) if isinstance(value, str) else value


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class _EngineSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RUNYARD_", populate_by_name=True, extra="ignore")


class StorageSettings(_EngineSettings):
    """Database and files."""

    home: Path = Field(
        default_factory=_project_root,
        description="The project's folder, which holds `dagster.yaml`. Defaults to `DAGSTER_HOME`, "
        "or else to the working directory.",
    )
    data_dir: Path | None = Field(
        default=None,
        description="The data folder: the embedded database, the file broker's queue, and files "
        "that functions keep. Defaults to `.runyard` in the project's folder.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="The URL of a PostgreSQL server, version 14 or later: "
        "`postgresql://user:password@host/database`. Without it `runyard up` starts the embedded "
        "one.",
    )
    direct_database_url: SecretStr | None = Field(
        default=None,
        description="The URL of the server itself, needed when `DATABASE_URL` leads to PgBouncer "
        "or another connection pooler: migrations and LISTEN bypass the pooler.",
    )
    postgres_folder: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("RUNYARD_POSTGRES_DIR", "postgres_folder"),
        description="The data directory of the embedded database. Defaults to `postgres` in the "
        "data folder, or to a folder in `/var/lib/runyard` when root runs Runyard.",
    )
    retention: str = Field(
        default="30d",
        description="How long finished invocations and their events are kept: `30d`, `forever`, "
        "or, with exceptions for single functions, `30d, charge_card=90d`.",
    )
    run_output_bytes: int = Field(
        default=1024 * 1024,
        ge=0,
        le=64 * 1024 * 1024,
        description="How many bytes of a Dagster run's standard output are kept in the database, "
        "and as many of its standard error. Of a longer output it is the beginning and the end, "
        "half of the bytes each. With 0 none are kept, and a run prints to the output of its "
        "process.",
    )


class WorkerSettings(_EngineSettings):
    """Workers and broker."""

    broker_url: SecretStr | None = Field(
        default=None,
        description="The URL of the Redis or RabbitMQ broker between the daemon and the workers. "
        "Defaults to a broker of plain files in the data folder, for a single machine.",
    )
    concurrency: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        ge=1,
        le=256,
        description="The number of runs that one worker executes at a time, each in a process of "
        "its own: 1 to 256. Defaults to the number of cores, at least 2.",
    )
    remote_concurrency: int = Field(
        default=200,
        ge=1,
        le=1000,
        description="The number of runs of functions served by applications that one worker "
        "executes at a time, beside those of `RUNYARD_CONCURRENCY`: 1 to 1000. They are threads of "
        "one process, which is started when there are such functions.",
    )
    lease_seconds: float = Field(
        default=30,
        ge=2,
        description="Lease timeout in seconds: when a worker has not renewed the lease of a batch "
        "for this long, the batch is given to another run.",
    )
    drain_timeout: float = Field(
        default=25,
        ge=0,
        description="How many seconds a process that is told to stop has to finish what it is "
        "doing: a worker its runs, the web process its open requests. Runs that take longer are "
        "handed back; this does not count as an attempt. Under `runyard up` it defaults to "
        f"{UP_DRAIN_SECONDS:g}.",
    )

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, value: SecretStr | None) -> SecretStr | None:
        problem = problem_with_broker_url(value.get_secret_value()) if value is not None else None
        if problem is not None:
            raise ValueError(problem)
        return value


class WebSettings(_EngineSettings):
    """Web process and HTTP API."""

    host: str = Field(default="127.0.0.1", description="The address that the web process binds to.")
    port: int = Field(default=8290, ge=1, le=65535, description="The port of the web process.")
    environment: str = Field(
        default="production",
        pattern=r"^[a-z0-9-]{1,32}$",
        description="The name of this environment (lower-case letters, digits and hyphens). The "
        "HTTP API accepts only API keys that were created for it, and functions belong to a code "
        "location within it.",
    )
    signing_secrets: SecretStr | None = Field(
        default=None,
        description="Secrets with which applications sign posts to the HTTP API (Standard "
        "Webhooks), separated by commas; a signature made with any of them is valid.",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Allowed CORS origins, separated by commas: `https://shop.example`. Pages of "
        "these origins may call the HTTP API and read its answers.",
    )
    key_rate_limit: float = Field(
        default=1000,
        gt=0,
        description="Requests per second allowed to an API key that has no rate limit of its own, "
        "counted by each web process.",
    )
    unknown_key_rate_limit: float = Field(
        default=1,
        gt=0,
        description="Requests per second with unknown API keys allowed to one address. Further "
        "requests of this kind are delayed or rejected; requests with valid keys are not affected.",
    )
    client_timeout: float = Field(
        default=15,
        gt=0,
        description="How many seconds a client may take to send its headers, then its body, and "
        "between two reads of the answer.",
    )
    connections: int = Field(
        default=2000,
        ge=1,
        description="The number of connections that the web process keeps open. When it is "
        "reached, the connection that has been idle the longest is closed to make room.",
    )
    connections_per_address: int = Field(
        default=1000,
        ge=1,
        description="How many of these connections may come from one address. Behind a proxy all "
        "clients share one: set it to the value of `RUNYARD_CONNECTIONS`.",
    )
    body_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="The total size of the request bodies that the web process holds at a time, in "
        "bytes, 64 MiB at least. An eighth of it is for senders that are not authenticated yet.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning",
        description="What the web process logs: `debug`, `info` (every request), `warning` or "
        "`error`.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`json`: processes log lines of JSON, and `runyard up` makes one of every line "
        "that a process of the stack writes.",
    )


class TraceSettings(_EngineSettings):
    """Traces.

    OpenTelemetry's own variables say where they go, and how many: see [Traces](traces.md).
    """

    traces: Literal["off", "otlp"] = Field(
        default="off",
        description="`otlp`: record traces and send them to a collector by OTLP over HTTP. Needs "
        "`pip install 'runyard[traces]'`.",
    )
    trace_url: str | None = Field(
        default=None,
        description="Where a trace is shown, with `{trace_id}` in place of its id: "
        "`https://grafana.example/explore/trace/{trace_id}`. The dev page then links to the traces "
        "of invocations.",
    )

    @model_validator(mode="after")
    def _can_be_exported(self) -> Self:
        problem = problem_with_traces(os.environ) if self.traces == "otlp" else None
        if problem is not None:
            raise ValueError(problem)
        return self

    @field_validator("trace_url")
    @classmethod
    def _has_a_place_for_the_id(cls, value: str | None) -> str | None:
        if value is not None and not (is_http_url(value) and TRACE_ID in value):
            raise ValueError(
                f"not an http or https URL with {TRACE_ID} in it: write it as"
                f" https://grafana.example/explore/trace/{TRACE_ID}"
            )
        return value


class AlertSettings(_EngineSettings):
    """Alerts."""

    alerts: SecretStr | None = Field(
        default=None,
        description="Who is told of failures, separated by commas: webhooks that accept Slack's "
        "JSON (`https://hooks.slack.com/services/...`) and addresses (`mailto:ops@example.com`).",
    )
    public_url: str = Field(
        default="",
        description="The address at which people reach the web process, for the links in alerts: "
        "`https://runyard.example.com`. Defaults to the address that it binds to.",
    )

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value and not is_http_url(value):
            raise ValueError(
                "not an http or https URL: write it as https://runyard.example.com, with the path"
                " if a proxy adds one"
            )
        return value

    @field_validator("alerts")
    @classmethod
    def _are_receivers(cls, value: SecretStr | None) -> SecretStr | None:
        for receiver in _parts(value.get_secret_value()) if value is not None else ():
            is_webhook = receiver.startswith("http")
            if not _RECEIVER.fullmatch(receiver) or (is_webhook and not is_http_url(receiver)):
                raise ValueError(
                    "not a list of receivers: write https://host/path or mailto:name@host,"
                    " several separated by commas"
                )
        return value

    @property
    def alert_receivers(self) -> list[str]:
        """Who is told of failures: URLs of webhooks, and `mailto:` with an address."""
        return _parts(self.alerts.get_secret_value()) if self.alerts is not None else []


class AppSettings(_EngineSettings):
    """Applications with Inngest's SDKs."""

    apps: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="URLs at which applications serve functions, separated by commas: "
        "`http://localhost:3000/api/inngest`. The web process asks each to register until it has.",
    )
    discover_apps: bool = Field(
        default=True,
        description="Whether the web process looks for applications on the usual ports of this "
        "machine, and asks those that it knows for changes. Only in development.",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="The key that applications have as `INNGEST_SIGNING_KEY`: `signkey-prod-` and "
        "hexadecimal digits, as from `openssl rand -hex 32`. Calls are signed with it, and "
        "applications register with it. Without one they can register in development only.",
    )
    signing_key_fallback: SecretStr | None = Field(
        default=None,
        description="A second signing key that is accepted too, while applications move from one "
        "to the other.",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Hosts outside the public internet that may be requested all the same when "
        "events, users or applications name them, separated by commas: `files.internal`, "
        "`files.internal:8080`.",
    )
    gateway_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Hosts that steps of applications may have requested from here, by "
        "`step.ai.infer` and `step.fetch`, separated by commas: `ai.example.com`, "
        "`files.internal:8080`, or `*` for all. Without any, all of them in development, and none "
        "elsewhere. A host outside the public internet must be in `RUNYARD_ALLOWED_HOSTS` too.",
    )

    @field_validator("apps", "allowed_hosts", "gateway_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return _split(value)


def _beside_code(name: str) -> Callable[[dict[str, Any]], str]:
    """The default of a module's name: that of a module in the package of the code location.

    It is empty, for no module, when the code location is in no package: a module `events` or
    `settings` that can be imported from anywhere may be somebody else's.
    """

    def default(settings: dict[str, Any]) -> str:
        package = str(settings.get("code", "")).rpartition(".")[0]
        return f"{package}.{name}" if package else ""

    return default


class ProjectSettings(_EngineSettings):
    """Modules of the project.

    Where the engine finds the project's code, as names of Python modules. All but the code location
    are optional: a module that does not exist is skipped. By default they are in the package of the
    code location: with `RUNYARD_CODE=shop.definitions` the event types are in `shop.events`. A code
    location outside of any package, such as `definitions`, has only those that are set.
    """

    code: str = Field(
        default="definitions",
        description="The module with the Dagster `Definitions`: the code location.",
    )
    catalog: str = Field(
        default_factory=_beside_code("events"),
        description="The module that declares the event types. Defaults to `events` in the package "
        "of the code.",
    )
    http_extensions: str = Field(
        default_factory=_beside_code("http_extensions"),
        description="The module with the project's own endpoints: edge functions and webhooks. "
        "Defaults to `http_extensions` in the package of the code.",
    )
    pages: str = Field(
        default_factory=_beside_code("pages"),
        description="The module with the project's own pages below `/dev`. Defaults to `pages` in "
        "the package of the code.",
    )
    checks: str = Field(
        default_factory=_beside_code("checks"),
        description="The module whose function `checks` returns the project's own checks for "
        "`runyard doctor`. Defaults to `checks` in the package of the code.",
    )
    report: str = Field(
        default_factory=_beside_code("report"),
        description="The module whose function `week` returns the text of `runyard report`. "
        "Defaults to `report` in the package of the code.",
    )
    mail: str = Field(
        default_factory=_beside_code("mail"),
        description="The module whose function `send(to, subject, text)` sends alerts by mail. "
        "Defaults to `mail` in the package of the code.",
    )
    migrations: str = Field(
        default_factory=_beside_code("migrations"),
        description="The package with the project's own Alembic migrations (schema `app`). "
        "Defaults to `migrations` in the package of the code.",
    )
    settings: str = Field(
        default_factory=_beside_code("settings"),
        description="The module with the project's own pydantic settings classes, for `runyard "
        "doctor --settings` and `runyard configuration`. Defaults to `settings` in the package of "
        "the code.",
    )


class Settings(
    StorageSettings,
    WorkerSettings,
    WebSettings,
    TraceSettings,
    AlertSettings,
    AppSettings,
    ProjectSettings,
):
    """All settings of the engine."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments come first, then the environment, then the project's pyproject.toml."""
        home = {**env_settings(), **init_settings()}.get("home") or _project_root()
        values = _from_project_file(Path(home))
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return _split(value)

    @field_validator("database_url", "direct_database_url")
    @classmethod
    def _is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        problem = problem_with_postgres_url(value.get_secret_value()) if value is not None else None
        if problem is not None:
            raise ValueError(problem)
        return value

    @field_validator("retention")
    @classmethod
    def _is_a_retention(cls, value: str) -> str:
        try:
            Retention.parse(value)
        except InvalidOption as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _has_both_urls(self) -> Self:
        if self.direct_database_url is not None and self.database_url is None:
            raise ValueError(
                "RUNYARD_DIRECT_DATABASE_URL is set but DATABASE_URL is not: set DATABASE_URL to "
                "the pooler's URL, or, without a pooler, set only DATABASE_URL"
            )
        return self

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return (self.data_dir or self.home / ".runyard").resolve()

    @property
    def postgres_dir(self) -> Path:
        """The data directory of the embedded PostgreSQL."""
        if self.postgres_folder is not None:
            return self.postgres_folder.absolute()
        return self._root_postgres_dir() if self._is_roots() else self.data / "postgres"

    def _is_roots(self) -> bool:
        """Whether this process is root's, and the data folder is, or will be, root's too."""
        try:
            return os.geteuid() == 0 == self.data.stat().st_uid
        except FileNotFoundError:
            return os.geteuid() == 0

    def _root_postgres_dir(self) -> Path:
        """A folder for the database of this data folder alone."""
        project = self.data.parent if self.data.name == ".runyard" else self.data
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", project.name)[:30].strip(".-") or "project"
        return ROOT_DATABASES / f"{name}-{sha256(os.fsencode(self.data)).hexdigest()[:12]}"

    @property
    def broker_dir(self) -> Path:
        """The folder of the file broker."""
        return self.data / "broker"

    def project_module(self, name: str) -> ModuleType | None:
        """Import the project's module that the setting `name` points to (such as `catalog`).

        Returns None when there is no such module, as in a process outside a project.
        """
        module: str = getattr(self, name)
        if not module:
            return None
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            return None

    @property
    def loopback_only(self) -> bool:
        """Whether the web process can be reached from this machine only."""
        return self.host in ("127.0.0.1", "localhost", "::1")


def variable(name: str, field: FieldInfo, prefix: str = "RUNYARD_") -> str:
    """Return the environment variable of a field of settings with this prefix."""
    match field.validation_alias:
        case str() as alias:
            return alias
        case AliasChoices(choices=[str() as alias, *_]):
            return alias
    return f"{prefix}{name}".upper()


def file_keys() -> dict[str, str]:
    """Return the keys of `[tool.runyard]`, each with the name of its field."""
    return {
        _key(name, field): name
        for name, field in Settings.model_fields.items()
        if not _is_outside_the_file(name, field)
    }


def _key(name: str, field: FieldInfo) -> str:
    return variable(name, field).removeprefix("RUNYARD_").lower()


def _is_outside_the_file(name: str, field: FieldInfo) -> bool:
    """Whether a setting is a secret, or the place of the file itself."""
    return name == "home" or SecretStr in (field.annotation, *get_args(field.annotation))


def _from_project_file(home: Path) -> dict[str, Any]:
    """The settings in the project's pyproject.toml, by name; raises `InvalidOption`."""
    table = project_file.read_table(home)
    known = file_keys()
    elsewhere = {
        _key(name, field): variable(name, field)
        for name, field in Settings.model_fields.items()
        if _is_outside_the_file(name, field)
    }
    project_file.check_keys(home, table.keys(), known.keys(), elsewhere)
    return {known[key]: _from_folder(home, known[key], value) for key, value in table.items()}


def _from_folder(home: Path, name: str, value: object) -> object:
    """A value of the file; a path is relative to the file."""
    is_path = Path in get_args(Settings.model_fields[name].annotation)
    return home / value if is_path and isinstance(value, str) else value


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read at the first call."""
    return Settings()
