"""Lines that are written as they end, whatever a stream is connected to.

Python collects what a program prints to a file or a pipe. Whatever a child process prints meanwhile
would come first.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO


@contextmanager
def line_buffered(stream: TextIO | None) -> Iterator[None]:
    """Write each line of a stream as it ends; another kind of stream is left alone."""
    if not isinstance(stream, TextIOWrapper):
        yield
        return
    before = stream.line_buffering
    stream.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # what is left cannot be written, or it is closed
            stream.reconfigure(line_buffering=before)
