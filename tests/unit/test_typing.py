"""What a project's own type checker says of the light form: mypy --strict, over a small project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVENTS = """
from runyard import EventData, event_type


@event_type("payment/requested")
class PaymentRequested(EventData):
    account: str
    amount: int


@event_type("order/approved")
class OrderApproved(EventData):
    order: str
"""
RIGHT = """
from collections.abc import Sequence
from dataclasses import dataclass

from dagster import ConfigurableResource, Definitions, OpExecutionContext
from events import OrderApproved, PaymentRequested

from runyard import (
    Batch, Concurrency, Cron, Event, Item, Retry, Run, Trigger, definitions, function, step
)


class Bank(ConfigurableResource):  # type: ignore[type-arg]
    name: str = "bank"


@dataclass
class Receipt:
    number: int


@step
def charge(item: Item[PaymentRequested], bank: Bank) -> Receipt:
    return Receipt(item.data.amount + len(bank.name))


@step(tasks=8, timeout="30s", retry=Retry(attempts=8), checkpoint_every=1)
async def fetch(item: Item[PaymentRequested]) -> int:
    return item.data.amount


@step(size=50)
def rate(items: Sequence[Item[PaymentRequested]]) -> list[float]:
    return [item.data.amount / 2 for item in items]


def headings(item: Item) -> list[str]:
    return ["a", "b"]


@step(each=headings, threads=4)
def section(item: Item, heading: str) -> tuple[str, int]:
    return heading, len(heading)


@step
def sort(batch: Batch) -> Batch:
    return batch.map("sorted", lambda item: 1)


@step
def thank(item: Item[PaymentRequested], context: OpExecutionContext) -> str:
    number: int = charge.result(item).number
    fetched: int = fetch.result(item)
    rated: float = rate.result(item)
    sections: list[tuple[str, int]] = section.results(item)
    return f"{number} {fetched} {rated} {sections} {context.run_id}"


@step
def mourn(item: Item) -> str:
    return str(item.data["error"]["message"])


def rejoice(run: Run) -> None:
    mourn(run)


def inner(run: Run) -> None:
    rate(run)
    sort(run)


@function("post/published", Trigger("post/*", "$.data.x > 1"), cron=Cron("0 6 * * *"))
def announce(item: Item) -> str:
    return str(item.data["title"])


@function(
    PaymentRequested,
    retry=Retry(attempts=5),
    concurrency=Concurrency(1, key="data.account"),
    on_failure=mourn,
    on_success=rejoice,
)
def take_payment(run: Run) -> None:
    charge(run)
    run.sleep("wait", "3d")
    run.wait_for_event("approval", OrderApproved, match="data.order", timeout="3d")
    run.parallel(fetch, section, inner)
    charge.named("charge-again")(run)
    run.invoke("announcement", announce, lambda item: {"title": "x"})
    run.send_events("tell", lambda item: Event("x/y"))
    thank(run)


@function(PaymentRequested)
def pay(item: Item[PaymentRequested], bank: Bank) -> int:
    return item.data.amount


@function(PaymentRequested)
@step(retry=Retry(attempts=2))
def pay_alone(item: Item[PaymentRequested]) -> int:
    return item.data.amount


@function(PaymentRequested, OrderApproved)
def both(item: Item[PaymentRequested | OrderApproved]) -> str:
    return type(item.data).__name__


@function(PaymentRequested)
def outer(run: Run) -> None:
    take_payment(run)
    sort.named("sort-again")(run)


defs: Definitions = definitions(take_payment, pay, announce, resources={"bank": Bank()})
item = Item(1, Event("payment/requested"), 1, PaymentRequested(account="a", amount=5))
receipt: Receipt = charge(item, Bank())
again: Receipt = charge.named("again")(item, bank=Bank())
rates: Sequence[float] = rate([item])
one: tuple[str, int] = section(item, "a")
paid: int = pay(item, Bank())
announced: str = announce(Item(2, Event("post/published"), 1, {"title": "x"}))


async def test() -> int:
    return await fetch(item)
"""
# Each of these lines is an error, with the code of mypy after it.
WRONG = """
from events import OrderApproved, PaymentRequested

from runyard import Item, Retry, Run, function, step


@step
def charge(item: Item[PaymentRequested]) -> int:
    return item.data.total  # attr-defined


@step
def count(item: Item) -> int:
    return 1


@step
async def fetch(item: Item) -> int:
    return 1


@function(PaymentRequested)
def take_payment(run: Run) -> None:
    receipt = charge(run)
    print(receipt.number)  # attr-defined
    if run.wait_for_event("a", "b"):  # func-returns-value
        count(run)
    run.sleep("wait")  # call-arg
    run.sleep("wait", [3])  # arg-type
    run.wait_for_event("a", "b", until="3d")  # call-arg
    run.parallel(count, "b")  # arg-type
    run.invoke("call", count)  # arg-type
    run.step("x")  # attr-defined
    count(run, 1)  # call-overload


@function(PaymentRequested)  # arg-type
def approve(item: Item[OrderApproved]) -> None: ...


@function("a/b", retries=3)  # call-overload
def misspelt(item: Item) -> None: ...


@function("a/b", retry=3)  # call-overload
def mistyped(item: Item) -> None: ...


@step(thread=3)  # call-overload
def misspelt_step(item: Item) -> None: ...


@step(threads="3")  # call-overload
def mistyped_step(item: Item) -> None: ...


def test(item: Item[PaymentRequested]) -> None:
    text: str = charge(item)  # assignment, call-overload
    result: str = charge.result(item)  # assignment
    results: list[str] = count.results(item)  # assignment
    fetched: str = fetch.result(item)  # assignment
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these files."""
    project = tmp_path_factory.mktemp("project")
    for name, text in (("events", EVENTS), ("right", RIGHT), ("wrong", WRONG)):
        (project / f"{name}.py").write_text(text.removeprefix("\n"))
    return project


@pytest.fixture(scope="module")
def said(project: Path) -> list[str]:
    """What mypy says of the project."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", "cache"]
    mypy = subprocess.run(
        [*command, "right.py", "wrong.py"],
        cwd=project,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert mypy.returncode in (0, 1), mypy.stdout + mypy.stderr
    return mypy.stdout.splitlines()


def errors_in(said: list[str], file: str) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for line in said:
        match = re.fullmatch(rf"{file}:(\d+): error: .*\[([a-z-]+)\]", line)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
    return found


def test_a_project_in_the_light_form_loads(project: Path) -> None:
    code = "import right; right.defs.get_repository_def()"
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (loaded.returncode, loaded.stderr) == (0, "")


def test_a_project_in_the_light_form_passes(said: list[str]) -> None:
    assert [line for line in said if line.startswith(("right.py", "events.py"))] == []


EXPECTED = {
    number: set(line.partition("  # ")[2].split(", "))
    for number, line in enumerate(WRONG.removeprefix("\n").splitlines(), 1)
    if "  # " in line
}


@pytest.mark.parametrize("line", EXPECTED)
def test_a_mistake_is_an_error(said: list[str], line: int) -> None:
    assert errors_in(said, "wrong.py").get(line, set()) & EXPECTED[line], said


def test_nothing_else_is_an_error(said: list[str]) -> None:
    assert set(errors_in(said, "wrong.py")) - set(EXPECTED) == set()
