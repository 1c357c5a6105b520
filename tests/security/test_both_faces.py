"""What holds in development and before others alike."""

import httpx

from tests.door import Door


def test_both_faces_answer(door: Door, development: Door) -> None:
    assert {httpx.get(f"{face.url}/healthz").status_code for face in (door, development)} == {200}
