"""What goes on beside a measurement."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def meanwhile(do: Callable[[], object], every: float) -> Iterator[None]:
    """Do something again and again in a thread, with so many seconds in between."""
    is_over = Event()

    def repeat() -> None:
        while not is_over.wait(every):
            do()

    thread = Thread(target=repeat, name="benchmark-meanwhile")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
