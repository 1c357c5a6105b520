"""Log records in a process's own output, also while Dagster keeps what a run prints.

For the time of a run, Dagster sends standard error to a file. A collector of logs reads the output
of processes, and so does whoever watches a terminal.
"""

import logging
import os
from functools import cache
from typing import TextIO

from typing_extensions import override


def show_in_output(logger: logging.Logger, formatter: logging.Formatter) -> None:
    """Write a logger's records to this process's output while standard error goes elsewhere.

    Otherwise the handlers that there are do it. To be called before standard error is redirected
    for the first time, and before the processes are forked that are to do the same.
    """
    handler = _WhileRedirected(_own_output())
    handler.setFormatter(formatter)
    logger.addHandler(handler)


class _WhileRedirected(logging.StreamHandler[TextIO]):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        if not os.path.samestat(os.fstat(2), os.fstat(self.stream.fileno())):
            super().emit(record)


@cache
def _own_output() -> TextIO:
    """What standard error is by now."""
    return os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
