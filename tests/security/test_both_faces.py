"""What holds in development and on the public side alike."""

import httpx

from tests.web_process import WebProcess


def test_both_faces_answer(web: WebProcess, development: WebProcess) -> None:
    assert {httpx.get(f"{face.url}/healthz").status_code for face in (web, development)} == {200}
