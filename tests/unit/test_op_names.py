"""What the Dagster UI shows of a drawn function: the names and descriptions of its ops and job."""

from collections.abc import Callable
from typing import Any

import pytest
from dagster import JobDefinition

from runyard import Event, EventFunction, InvalidOption, Item, Run, function, step
from runyard.functions import registry


@pytest.fixture(autouse=True)
def _no_other_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_functions", {})


def drawn(body: Callable[[Run], None], **options: Any) -> EventFunction[..., Any]:
    return function("shop/ordered", name="shipping", **options)(body)


def ops(job: JobDefinition) -> dict[str, str | None]:
    """The descriptions of a job's own ops by their names."""
    names = {node.name: node.definition.description for node in job.nodes}
    return {name: text for name, text in names.items() if name not in ("receive", "settle")}


@step(op="weigh_parcel")
def weigh(item: Item) -> int:
    """Weigh the parcel."""
    return int(item.data["grams"])


def label(item: Item) -> Event:
    """Request the label."""
    return Event("label/requested", {"id": item.id})


def both(run: Run) -> None:
    """Ship an order."""
    weigh(run)
    run.send_events("label", label)


def test_an_op_has_the_name_that_its_step_gives_it() -> None:
    assert list(ops(drawn(weigh).job)) == ["weigh_parcel"]


def test_a_step_with_an_op_name_keeps_its_own() -> None:
    assert weigh.name == "weigh"


def test_a_step_under_another_name_has_another_op() -> None:
    def twice(run: Run) -> None:
        weigh(run)
        weigh.named("weigh-again")(run)

    assert sorted(ops(drawn(twice).job)) == ["weigh_again", "weigh_parcel"]


@pytest.mark.parametrize("wrong", ["weigh-parcel", "", 7])
def test_an_op_name_that_dagster_does_not_take_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^step weigh: op=.*: give a name such as 'charge_"):
        step(name="weigh", op=wrong)(weighed)


def weighed(item: Item) -> int:
    return int(item.data["grams"])


def test_ops_say_what_the_python_functions_say() -> None:
    assert ops(drawn(both).job) == {
        "weigh_parcel": "Weigh the parcel.",
        "label": "Request the label.",
    }


def test_a_job_says_what_the_body_says() -> None:
    assert drawn(both).job.description == "Ship an order."


def test_a_sensor_says_what_starts_the_function() -> None:
    assert str(drawn(both).sensor.description).startswith("Runs shipping on shop/ordered: up to")


def test_a_description_is_that_of_the_job_and_the_sensor() -> None:
    made = drawn(both, description="Ships.")
    assert [made.job.description, made.sensor.description] == ["Ships.", "Ships."]
