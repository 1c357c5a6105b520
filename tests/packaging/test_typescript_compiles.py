"""What `runyard types` prints: the TypeScript compiler takes it, and refuses wrong events."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import create_model

from runyard.events import catalog
from runyard.gateway.dev.forms import example
from tests.conftest import ROOT
from tests.typed_models import FIELDS, Node, Open, written

pytestmark = pytest.mark.slow
_TYPESCRIPT = "typescript@5.9.3"
_OPTIONS = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom"]
_USES = """\
import type { EventName, Events, RunyardEvent } from "./events";

// Inngest's SDK, version 3, takes the events like this.
declare class EventSchemas {
  fromRecord<T extends Record<string, { data?: any }>>(): { events: T };
}
export const schemas = new EventSchemas().fromRecord<Events>();
export const name: EventName = "email/send.requested";

export async function send(event: RunyardEvent): Promise<Response> {
  return fetch("http://localhost:8290/e/dev", { method: "POST", body: JSON.stringify(event) });
}
"""
_WRONG = {
    "an unknown field": '{ name: "user/created", data: { nothing: 1 } }',
    "a missing field": '{ name: "user/created", data: { user: "ada" } }',
    "a wrong type": '{ name: "user/created", data: { user: 7, email: "a@example.com" } }',
    "an unknown name": '{ name: "user/creatd", data: { user: "ada", email: "a@example.com" } }',
    "the data of another event": '{ name: "sync/requested", data: { user: "ada" } }',
    "a value that is not listed": (
        '{ name: "content/generate.requested", data: { topic: "x", kind: "poem" } }'
    ),
}


def printed(option: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "runyard", "types", option],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def of_the_project() -> list[str]:
    """The names of the project's event types, without those that other tests have declared."""
    types = {name: catalog.type_of(name) for name in catalog.names()}
    return [name for name, made in types.items() if made and not is_of_tests(made)]


def is_of_tests(made: type) -> bool:
    return made.__module__.split(".")[0] == "tests"


@pytest.fixture(scope="module")
def compile(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What the compiler says of a module beside the declarations; nothing when all is well."""
    folder = tmp_path_factory.mktemp("typescript")
    binaries = Path(sys.executable).parent
    variables = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(folder)}
    (folder / "package.json").write_text('{"private": true}')
    (folder / "events.d.ts").write_text(printed("--typescript"))
    install = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([binaries / "npm", *install, _TYPESCRIPT], cwd=folder, check=True, timeout=120)

    def compile(module: str) -> str:
        (folder / "uses.ts").write_text(module)
        tsc = folder / "node_modules/typescript/bin/tsc"
        return subprocess.run(
            [binaries / "node", tsc, *_OPTIONS, "uses.ts", "events.d.ts"],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
        ).stdout

    return compile


def test_an_example_of_every_event_type_compiles(compile: Callable[[str], str]) -> None:
    events = [
        {"name": name, "data": example(schema)}
        for name in of_the_project()
        if (schema := catalog.schema(name)) is not None
    ]
    sent = "".join(f"void send({json.dumps(event)});\n" for event in events)
    assert compile(_USES + sent) == ""


def test_every_kind_of_field_compiles(compile: Callable[[str], str]) -> None:
    fields: dict[str, Any] = {
        f"field_{number}": (annotation, ...) for number, (annotation, _) in enumerate(FIELDS)
    }
    assert compile(written(create_model("Everything", **fields), Node, Open)) == ""


@pytest.mark.parametrize("event", _WRONG.values(), ids=_WRONG)
def test_a_wrong_event_does_not_compile(compile: Callable[[str], str], event: str) -> None:
    assert "uses.ts" in compile(f"{_USES}void send({event});\n")


@pytest.fixture(scope="module")
def is_valid() -> Callable[[object], bool]:
    """Whether an event fits the JSON Schema of all events."""
    return jsonschema_rs.validator_for(json.loads(printed("--json-schema"))).is_valid


def test_the_json_schema_takes_an_example_of_every_event_type(
    is_valid: Callable[[object], bool],
) -> None:
    refused = [
        name
        for name in of_the_project()
        if not is_valid({"name": name, "data": example(catalog.schema(name) or {})})
    ]
    assert refused == []


def test_the_json_schema_refuses_the_data_of_another_event(
    is_valid: Callable[[object], bool],
) -> None:
    assert not is_valid({"name": "user/created", "data": {"source": "x"}})
