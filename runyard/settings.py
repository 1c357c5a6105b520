"""Every setting of the engine, read once from the environment.

A `Settings` is made where a process begins and cached by `settings()`. Secrets are `SecretStr`, so no log,
error or page shows them by accident.
"""

import importlib
import os
import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runyard.errors import InvalidOption
from runyard.syntax.retention_policy import Retention

# Where the embedded database of a project is that root runs: PostgreSQL refuses to run as root, and its user need not enter root's folders.
ROOT_DATABASES = Path("/var/lib/runyard")


def _project_root() -> Path:
    """The folder with `dagster.yaml`: DAGSTER_HOME, or the working directory."""
    return Path(os.environ.get("DAGSTER_HOME") or Path.cwd()).resolve()


class Settings(BaseSettings):
    """What can be set, each by an environment variable; `runyard doctor` prints them."""

    model_config = SettingsConfigDict(env_prefix="RUNYARD_", populate_by_name=True, extra="ignore")

    home: Path = Field(
        default_factory=_project_root, description="The project's folder (RUNYARD_HOME)."
    )
    data_dir: Path | None = Field(
        default=None,
        description="Where the embedded database, the broker's files and the outbox are kept (RUNYARD_DATA_DIR); `.runyard` of the project by default.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="A PostgreSQL server (DATABASE_URL). When it is not set, `runyard up` starts an embedded one.",
    )
    direct_database_url: SecretStr | None = Field(
        default=None,
        description="The server itself, where DATABASE_URL leads to PgBouncer or another pooler (RUNYARD_DIRECT_DATABASE_URL): for migrations and for LISTEN.",
    )
    postgres_folder: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("RUNYARD_POSTGRES_DIR", "postgres_folder"),
        description="The folder of the embedded database (RUNYARD_POSTGRES_DIR): `postgres` in the data folder by default, one in /var/lib/runyard for root.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Redis or RabbitMQ between the daemon and the workers (RUNYARD_BROKER_URL); files by default.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="The address that the web process listens on (RUNYARD_HOST).",
    )
    port: int = Field(default=8290, ge=1, le=65535, description="Its port (RUNYARD_PORT).")
    environment: str = Field(
        default="production",
        pattern=r"^[a-z0-9-]{1,32}$",
        description="Which keys the HTTP API takes: those made for it (RUNYARD_ENVIRONMENT).",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="The origins whose pages may call the HTTP API (RUNYARD_CORS_ORIGINS, commas between): https://shop.example.",
    )
    key_rate_limit: float = Field(
        default=1000,
        gt=0,
        description="Requests a second of a key that has no rate of its own, for each web process (RUNYARD_KEY_RATE_LIMIT).",
    )
    unknown_key_rate_limit: float = Field(
        default=1,
        gt=0,
        description="Requests a second with unknown keys from one address, beyond which those, and no others, are slowed (RUNYARD_UNKNOWN_KEY_RATE_LIMIT).",
    )
    client_timeout: float = Field(
        default=15,
        gt=0,
        description="How long a client may take to send its headers, then its body, and to read a part of its answer (RUNYARD_CLIENT_TIMEOUT).",
    )
    connections: int = Field(
        default=2000,
        ge=1,
        description="Connections of the web process; those without a request in progress make room (RUNYARD_CONNECTIONS).",
    )
    connections_per_address: int = Field(
        default=1000,
        ge=1,
        description="Of those from one address; behind a proxy, as many as RUNYARD_CONNECTIONS (RUNYARD_CONNECTIONS_PER_ADDRESS).",
    )
    body_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="Bytes of bodies that the web process holds at a time, an eighth of them of unknown senders (RUNYARD_BODY_BYTES).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning",
        description="What the web process logs; info: every request (RUNYARD_LOG_LEVEL).",
    )
    concurrency: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        ge=1,
        le=256,
        description="Runs that one worker does at a time (RUNYARD_CONCURRENCY).",
    )
    lease_seconds: float = Field(
        default=30,
        ge=2,
        description="A batch is given to another run after this silence of its worker (RUNYARD_LEASE_SECONDS).",
    )
    stop_seconds: float = Field(
        default=3,
        ge=0,
        description="A worker that is told to stop hands the runs back that have not ended by then; no attempt is counted (RUNYARD_STOP_SECONDS).",
    )
    retention: str = Field(
        default="30d",
        description="How long events and invocations are kept (RUNYARD_RETENTION): `30d`, or with functions of their own time `30d, send_email=90d`; `forever`.",
    )
    code: str = Field(
        default="definitions", description="The module with the Dagster definitions (RUNYARD_CODE)."
    )
    catalog: str = Field(
        default="pipelines.events", description="The module with the event types (RUNYARD_CATALOG)."
    )
    http_extensions: str = Field(
        default="pipelines.http_extensions",
        description="The module with the project's edge functions and webhooks (RUNYARD_HTTP_EXTENSIONS).",
    )
    pages: str = Field(
        default="pipelines.pages",
        description="The module with the project's own pages of the dev page (RUNYARD_PAGES).",
    )
    checks: str = Field(
        default="pipelines.checks",
        description="The module with `checks`, the project's own lines of `runyard doctor` (RUNYARD_CHECKS).",
    )
    report: str = Field(
        default="assets.report",
        description="The module with `week`, the text of `runyard report` (RUNYARD_REPORT).",
    )
    migrations: str = Field(
        default="pipelines.migrations",
        description="The package with the project's own migrations (RUNYARD_MIGRATIONS).",
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str)
            else value
        )

    @field_validator("retention")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        try:
            Retention.parse(value)
        except InvalidOption as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _has_both_urls(self) -> Self:
        if self.direct_database_url is not None and self.database_url is None:
            raise ValueError(
                "RUNYARD_DIRECT_DATABASE_URL is the way around the pooler that DATABASE_URL leads to: set that too, or only that"
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
        """Whether this process is root's, and the data folder too (or will be)."""
        try:
            return os.geteuid() == 0 == self.data.stat().st_uid
        except FileNotFoundError:
            return os.geteuid() == 0

    def _root_postgres_dir(self) -> Path:
        """A folder that only this data folder has."""
        project = self.data.parent if self.data.name == ".runyard" else self.data
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", project.name)[:30].strip(".-") or "project"
        return ROOT_DATABASES / f"{name}-{sha256(os.fsencode(self.data)).hexdigest()[:12]}"

    @property
    def broker_dir(self) -> Path:
        """The folder of the broker that works with files."""
        return self.data / "broker"

    def project_module(self, name: str) -> ModuleType | None:
        """The project's module that a setting names (`catalog`, `http_extensions`, `checks`, `pages`), imported; None for a process outside of a project."""
        module: str = getattr(self, name)
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            return None

    @property
    def loopback_only(self) -> bool:
        """Whether the web process can be reached from this machine alone."""
        return self.host in ("127.0.0.1", "localhost", "::1")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read from the environment at the first call."""
    return Settings()
