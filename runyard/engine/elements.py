"""Steps whose number follows from data: the elements of an item, and the steps' names."""

from collections.abc import Callable, Iterable, Sequence
from inspect import isawaitable
from typing import Generic, TypeVar

from runyard.engine.async_steps import is_async
from runyard.engine.items import Item
from runyard.errors import NonRetriable, interrupts

MAX_ELEMENTS = 1_000
Element = TypeVar("Element")


def numbered(step: str, number: int) -> str:
    """Return the name of the step for an item's element, counted from 1: `section-3`."""
    return f"{step}-{number}"


def results(item: Item, step: str) -> list[object]:
    """Return the results of a step's elements that are complete, in the order of the elements."""
    found: list[object] = []
    while (name := numbered(step, len(found) + 1)) in item.outputs:
        found.append(item.outputs[name])
    return found


class Elements(Generic[Element]):
    """The elements of items, each item's list made once.

    Parameters
    ----------
    make
        Takes an item and returns its elements.
    when
        Which items have any; all by default.
    """

    def __init__(
        self,
        make: Callable[[Item], Sequence[Element]],
        when: Callable[[Item], bool] | None = None,
    ) -> None:
        self._make = make
        self._when = when
        self._made: dict[int, Sequence[Element]] = {}

    def of(self, item: Item) -> Sequence[Element]:
        """Return the elements of an item; raises `NonRetriable` for too many of them."""
        if item.id not in self._made:
            is_for = self._when is None or self._when(item)
            elements = list(self._make(item)) if is_for else []
            if len(elements) > MAX_ELEMENTS:
                raise NonRetriable(
                    f"there are {len(elements):,} elements, and the limit is {MAX_ELEMENTS:,}:"
                    " let an element stand for several, or send an event for each"
                )
            self._made[item.id] = elements
        return self._made[item.id]

    def most(self, items: Iterable[Item]) -> int:
        """Return the number of elements of the item that has the most.

        An item whose elements cannot be made counts as one, so that `has` fails for it in a step.
        """
        return max((self._count(item) for item in items), default=0)

    def has(self, item: Item, number: int) -> bool:
        """Return whether an item has an element of this number."""
        return number <= len(self.of(item))

    def bound(self, do: Callable[[Item, Element], object], number: int) -> Callable[[Item], object]:
        """Return the step for the elements of this number; it is async when `do` is."""
        if not is_async(do):
            return lambda item: do(item, self.of(item)[number - 1])

        async def run(item: Item) -> object:
            made: object = do(item, self.of(item)[number - 1])
            return await made if isawaitable(made) else made

        return run

    def _count(self, item: Item) -> int:
        try:
            return len(self.of(item))
        except interrupts():
            raise
        except BaseException:
            return 1
