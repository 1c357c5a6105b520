"""A database for jobs that run in this process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, Definitions, ExecuteInProcessResult

from resources.email.mailer import SendGridMailer
from resources.email.tables import EmailMessages
from runyard import definitions
from runyard.dagster_adapter.tags import BATCH
from runyard.engine import batch_claims
from runyard.functions import registry
from runyard.store import database
from tests.conftest import use_database
from tests.fake_sendgrid import FakeSendGrid
from tests.tables import empty_tables

RunFunction = Callable[..., ExecuteInProcessResult]


@pytest.fixture(scope="package")
def instance(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """A Dagster instance in memory; the event table is real."""
    use_database(server, "functions")
    os.environ["RUNYARD_EFFECTS"] = str(tmp_path_factory.mktemp("effects"))
    with DagsterInstance.ephemeral() as instance:
        import tests.code  # noqa: F401  (declares the functions)

        yield instance


@pytest.fixture(scope="package")
def runyard_database(instance: DagsterInstance) -> str:
    """The same database for the test kit."""
    return database.database_url()


@pytest.fixture
def runyard_definitions(sendgrid: FakeSendGrid, monkeypatch: pytest.MonkeyPatch) -> Definitions:
    """Runyard's own functions, with a fake SendGrid."""
    monkeypatch.setenv("SENDGRID_API_KEY", sendgrid.key)
    from sensors.email import send_email

    return definitions(send_email, resources=_resources(sendgrid))


def _resources(sendgrid: FakeSendGrid) -> dict[str, Any]:
    mailer = SendGridMailer(
        api_key=sendgrid.key, host=sendgrid.url, sender="R <r@example.com>", timeout=1.0
    )
    return {"messages": EmailMessages(), "mailer": mailer}


@pytest.fixture(autouse=True)
def empty(instance: DagsterInstance) -> None:
    """Begin with empty tables."""
    empty_tables("app.email_messages", "app.suppressions")
    registry.publish()


@pytest.fixture
def run_function(
    instance: DagsterInstance, sendgrid: FakeSendGrid, monkeypatch: pytest.MonkeyPatch
) -> RunFunction:
    """Claim a function's due invocations and run its job on them, in this process."""
    monkeypatch.setenv("SENDGRID_API_KEY", sendgrid.key)

    def run(name: str, **more: Any) -> ExecuteInProcessResult:
        from sensors.email import send_email
        from tests.functions import breaking, steps

        function = registry.find(name)
        assert function is not None
        defs = definitions(send_email, steps, breaking, resources=_resources(sendgrid))
        if "run_config" not in more:
            claims = batch_claims.claim(function)
            assert claims, "nothing is due"
            more["tags"] = {BATCH: claims[0].batch_id}
        return defs.get_job_def(function.job).execute_in_process(
            instance=instance, raise_on_error=False, **more
        )

    return run


@pytest.fixture
def lines(instance: DagsterInstance) -> Callable[[str], list[str]]:
    """The lines that the steps wrote for a key."""

    def read(key: str) -> list[str]:
        path = Path(os.environ["RUNYARD_EFFECTS"]) / key
        return sorted(path.read_text().splitlines()) if path.exists() else []

    return read
