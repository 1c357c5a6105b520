"""How the stack tests reach it: Dagster's GraphQL API, a browser, and the command line."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from runyard.settings import settings
from tests.browser import chromium
from tests.conftest import ROOT, wait_until

LOCATION = {"repositoryLocationName": "tests.code", "repositoryName": "__repository__"}


def address(path: str = "") -> str:
    """A URL of the web process."""
    return f"http://127.0.0.1:{settings().port}{path}"


def graphql(query: str, **variables: Any) -> dict[str, Any]:
    """Query Dagster's GraphQL API; fails on errors."""
    request = urllib.request.Request(
        address("/graphql"),
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = json.load(answer)
    assert "errors" not in body, body["errors"]
    return body["data"]


def run_status(run_id: str) -> str:
    """The status of a run, as the UI shows it."""
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    return graphql(query, id=run_id)["runOrError"]["status"]


def finished(run_id: str, seconds: float = 30.0) -> str:
    """Wait until a run has ended; return its status."""
    return wait_until(
        lambda: (status := run_status(run_id)) in ("SUCCESS", "FAILURE", "CANCELED") and status,
        seconds,
    )


def reexecute(run_id: str, strategy: str) -> str:
    """Do what the UI's re-execution button does; return the new run's id."""
    mutation = """mutation($params: ReexecutionParams) {
        launchRunReexecution(reexecutionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
        } }"""
    params = {"parentRunId": run_id, "strategy": strategy}
    launched = graphql(mutation, params=params)["launchRunReexecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def terminate(run_id: str, policy: str = "SAFE_TERMINATE") -> str:
    """Do what the UI's terminate button does.

    Its box "force" sends the policy MARK_AS_CANCELED_IMMEDIATELY.
    """
    mutation = """mutation($id: String!, $policy: TerminateRunPolicy!) {
        terminateRun(runId: $id, terminatePolicy: $policy) {
            __typename ... on TerminateRunFailure { message }
        } }"""
    answer = graphql(mutation, id=run_id, policy=policy)["terminateRun"]
    return str(answer.get("message", answer["__typename"]))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `runyard` with these arguments, as a person does in a shell."""
    return subprocess.run(
        [sys.executable, "-m", "runyard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    expect.set_options(timeout=15_000)  # milliseconds
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must show no errors, and nothing that the security policy has refused."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if "Content Security Policy" in message.text else None
        ),
    )
    yield page
    page.close()
    assert errors == []
