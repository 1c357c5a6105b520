"""Takes secrets out of text that will be kept or shown: errors, tracebacks, pages.

A secret is the value of an environment variable whose name says so, and the password of any URL.
"""

import os
import re
from collections.abc import Callable

_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):([^@/\s]+)@")
_SHORTEST = 6
MASK = "[redacted]"


def redact(text: str) -> str:
    """Return `text` with every known secret replaced by `[redacted]`.

    Values shorter than six characters are left: they would turn up in innocent words.
    """
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redact` with the secrets of this moment, for many texts."""
    secrets = [part for name, value in os.environ.items() if _NAMES.search(name) for part in value.split(",") if len(part) >= _SHORTEST]

    def without_secrets(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", text) if "://" in text else text

    return without_secrets
