"""How commands end: every error is one line on standard error, and exit code 1, or 2 for what a command cannot read."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from runyard.cli.terminal import echo
from runyard.errors import InvalidInput, RunyardError

Parameters = ParamSpec("Parameters")


def reported(command: Callable[Parameters, int | None]) -> Callable[Parameters, None]:
    """Turn our errors into one line and exit code 1 or 2, and a returned code into the exit code."""

    @wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except RunyardError as error:
            echo(f"runyard: {error}", err=True)
            code = 2 if isinstance(error, InvalidInput) else 1
        sys.exit(code or 0)

    return wrapped
