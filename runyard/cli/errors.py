"""How commands end: an error is one line on standard error, with exit code 1 or 2."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec

import click
from typing_extensions import override

from runyard.cli.terminal import echo
from runyard.errors import InvalidInput, RunyardError

Parameters = ParamSpec("Parameters")
# What cannot be written: a disk or a quota is full, a file is too large, a device is broken.
_NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Commands(click.Group):
    """Commands that end with one line when their output cannot be written.

    Of a pipe that the other side has closed, as `head` does, Click makes a silent end with code 1.
    """

    @override
    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command as Click does."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.errno not in _NOT_WRITTEN:
                raise
            with suppress(OSError):  # standard error may be what is full
                what = error.filename or "the output"
                echo(f"runyard: cannot write {what}: {error.strerror}", err=True)
            _drop_output()
            sys.exit(1)


def _drop_output() -> None:
    """Let Python write what it has buffered to nowhere: at the end it would fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def reported(command: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
    """Report Runyard's errors as one line, and exit with the code that the command returns.

    An error exits with 1, or with 2 when the command could not read its input.
    """

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except RunyardError as error:
            echo(f"runyard: {error}", err=True)
            code = 2 if isinstance(error, InvalidInput) else 1
        sys.exit(code or 0)

    return wrapped
