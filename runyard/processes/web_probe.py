"""Probes the web process of this project."""

import urllib.request

from runyard.settings import settings


def web_answers(path: str = "/healthz", seconds: float = 1.0) -> bool:
    """Whether the web process of this project answers with 200."""
    chosen = settings()
    try:
        with urllib.request.urlopen(
            f"http://{chosen.host}:{chosen.port}{path}", timeout=seconds
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
