"""`runyard web --api-only` as a process of its own, with keys; no worker and no daemon."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runyard import clock
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.settings import settings
from runyard.store import database
from tests.conftest import use_database
from tests.fake_gemini import FakeGemini
from tests.http.visitor import Visitor
from tests.ports import free_port
from tests.sdk_apps import PYTHON, SDK_VERSIONS, SdkApp, install_javascript
from tests.web_process import WebProcess, published, web_in_development

SIGNING_SECRET = "whsec_c2lnbmluZy1zZWNyZXQtb2YtdGhlLXRlc3Rz"
ORIGIN = "https://shop.example"


@pytest.fixture(scope="package")
def web_database_url(server: str) -> str:
    """The URL of the web process's database."""
    return use_database(server, "web")


@pytest.fixture(scope="package")
def gemini() -> Iterator[FakeGemini]:
    """A fake of Gemini's API that validates its requests."""
    with FakeGemini() as fake:
        yield fake


@pytest.fixture(scope="package")
def web(
    web_database_url: str,
    gemini: FakeGemini,
    sendgrid_keys: tuple[Any, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebProcess]:
    """The web process, with a key of every kind."""
    os.environ["RUNYARD_ENVIRONMENT"] = "test"
    settings.cache_clear()
    made = WebProcess(
        web_database_url,
        tmp_path_factory.mktemp("web") / "log",
        RUNYARD_SIGNING_SECRETS=f"old-secret-of-the-tests,{SIGNING_SECRET}",
        RUNYARD_CORS_ORIGINS=ORIGIN,
        RUNYARD_LOG_LEVEL="info",
        RUNYARD_CLIENT_TIMEOUT="3",
        RUNYARD_UNKNOWN_KEY_RATE_LIMIT="1000",
        SENDGRID_WEBHOOK_PUBLIC_KEY=sendgrid_keys[1],
        GITHUB_WEBHOOK_SECRET="github-secret",
        STRIPE_WEBHOOK_SECRET="stripe-secret",
        GEMINI_API_KEY=gemini.key,
        GEMINI_API_HOST=gemini.url,
    )
    made.make_keys()
    made.start()
    yield made
    made.stop()
    del os.environ["RUNYARD_ENVIRONMENT"]


@pytest.fixture(scope="package")
def sendgrid_keys() -> tuple[Any, str]:
    """SendGrid's private key, and its public key as SendGrid's settings page shows it."""
    from base64 import b64encode

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = ec.generate_private_key(ec.SECP256R1())
    return private, b64encode(
        private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()


@pytest.fixture(autouse=True)
def functions(web_database_url: str) -> Iterator[dict[str, Function]]:
    """Empty tables, and three functions."""
    with published(
        Function("greet", "greet_job", ("greet/requested",), retry=Retry(attempts=3)),
        Function("also", "also_job", ("greet/requested", "also/*"), retry=Retry(attempts=3)),
        Function("send_email", "send_email", ("email/send.requested",)),
    ) as made:
        yield made


@pytest.fixture(scope="module")
def developing(web_database_url: str) -> Iterator[str]:
    """The URL of a web process in development that looks for no applications by itself."""
    port = free_port()
    process = web_in_development(web_database_url, port)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(15)


@pytest.fixture(scope="package")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Installs a version of the SDK for JavaScript once, and returns the folder."""
    folders: dict[str, Path] = {}

    def install(version: str) -> Path:
        if version not in folders:
            folders[version] = install_javascript(tmp_path_factory.mktemp("sdk"), version)
        return folders[version]

    return install


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Test an application with every SDK, or with those that the module or the test names."""
    named = [marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")]
    if "serving" in metafunc.fixturenames and "serving" not in named:
        versions = getattr(metafunc.module, "VERSIONS", SDK_VERSIONS)
        metafunc.parametrize("serving", versions, indirect=True, scope="module")


@pytest.fixture(scope="module")
def serving(
    request: pytest.FixtureRequest,
    developing: str,
    javascript: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SdkApp]:
    """An application `shop` that serves the functions of the module's `SCRIPT`."""
    folder = None if request.param == PYTHON else javascript(request.param)
    log = tmp_path_factory.mktemp("app") / "log"
    variables: dict[str, str] = getattr(request.module, "VARIABLES", {})
    made = SdkApp("shop", folder, log, INNGEST_DEV=developing, **variables)
    made.run(request.module.SCRIPT)
    yield made
    made.stop()


@pytest.fixture
def no_apps(functions: dict[str, Function]) -> None:
    """Begin without applications."""
    with database.connection() as connection:
        connection.execute("TRUNCATE runyard.apps, runyard.app_functions")
        connection.execute("DELETE FROM runyard.functions WHERE location LIKE 'app %'")


@pytest.fixture
def app(serving: SdkApp, no_apps: None) -> Iterator[SdkApp]:
    """The application, registered, with an empty ledger."""
    httpx.put(serving.url, json={"url": serving.url}, timeout=30)
    serving.clear()
    yield serving
    clock.freeze(None)


@pytest.fixture(autouse=True)
def _leaving() -> Iterator[None]:
    """Close the connections of all visitors of the dev page."""
    yield
    while Visitor.here:
        Visitor.here.pop().http.close()
