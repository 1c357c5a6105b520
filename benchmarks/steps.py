"""The trivial steps of the functions under measurement."""

from runyard import Item, Run, step


@step
def first(item: Item):
    return {"n": item.event.data["n"] + 1}


@step
def second(item: Item):
    return {"n": item["first"]["n"] * 2}


@step
def third(item: Item):
    return {"n": item["second"]["n"] - 1}


def three_steps(run: Run) -> None:
    """The graph of a function with all of them."""
    first(run)
    second(run)
    third(run)
