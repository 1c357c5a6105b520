"""The web process in both modes: the public one with keys, and development with Dagster's UI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.functions.registry import Function
from runyard.settings import settings
from tests.conftest import use_database
from tests.web_process import WebProcess, published

GITHUB_SECRET, STRIPE_SECRET, SIGNING_SECRET = (
    "github-secret",
    "stripe-secret",
    "whsec_c2lnbmluZy1zZWNyZXQtb2YtdGhlLXRlc3Rz",
)
LISTED = "https://shop.example"


@pytest.fixture(scope="package")
def security_url(server: str) -> str:
    """The URL of the database of both."""
    return use_database(server, "security")


@pytest.fixture(scope="package")
def web(security_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """`runyard web --api-only`, with a key that may do everything and one for each scope."""
    os.environ["RUNYARD_ENVIRONMENT"] = "security"
    settings.cache_clear()
    made = WebProcess(
        security_url,
        tmp_path_factory.mktemp("web") / "log",
        RUNYARD_SIGNING_SECRETS=SIGNING_SECRET,
        RUNYARD_CORS_ORIGINS=LISTED,
        RUNYARD_LOG_LEVEL="info",
        RUNYARD_CLIENT_TIMEOUT="3",
        RUNYARD_UNKNOWN_KEY_RATE_LIMIT="1000",
        RUNYARD_HTTP_EXTENSIONS="tests.security.webhooks",
        CRM_WEBHOOK_SECRET=SIGNING_SECRET,
        GITHUB_WEBHOOK_SECRET=GITHUB_SECRET,
        STRIPE_WEBHOOK_SECRET=STRIPE_SECRET,
    )
    made.make_keys()
    made.start()
    yield made
    made.stop()
    del os.environ["RUNYARD_ENVIRONMENT"]


@pytest.fixture(scope="package")
def development(
    security_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebProcess]:
    """`runyard web` in development: no keys, the dev page, the Dagster UI with tests/code.py."""
    folder: Path = tmp_path_factory.mktemp("development")
    (folder / "workspace.yaml").write_text("load_from:\n  - python_module: tests.code\n")
    made = WebProcess(
        security_url,
        folder / "log",
        ["--workspace", str(folder / "workspace.yaml")],
        RUNYARD_CORS_ORIGINS=LISTED,
        RUNYARD_LOG_LEVEL="info",
        MAIL_OUTBOX=str(folder / "outbox"),
        RUNYARD_CLIENT_TIMEOUT="3",
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def functions(security_url: str) -> Iterator[dict[str, Function]]:
    """Empty tables, and a few functions."""
    with published(
        Function("greet", "greet_job", ("greet/requested",)),
        Function("send_email", "send_email", ("email/send.requested",)),
        Function("notify_contact", "notify_contact", ("contact/submitted",)),
    ) as made:
        yield made
