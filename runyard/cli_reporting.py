"""How commands end: every error is one line on standard error and exit code 1."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from runyard.errors import RunyardError
from runyard.terminal import echo

Parameters = ParamSpec("Parameters")


def reported(command: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
    """Turn our errors into one line and exit code 1, and a returned code into the exit code."""

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except RunyardError as error:
            echo(f"runyard: {error}", err=True)
            code = 1
        sys.exit(code or 0)

    return wrapped
