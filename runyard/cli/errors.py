"""How commands end: an error is one line on standard error, with exit code 1 or 2."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from runyard.cli.terminal import echo
from runyard.errors import InvalidInput, RunyardError

Parameters = ParamSpec("Parameters")


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
