"""What is not supported says so, and what is ignored is taken."""

import httpx
import pytest

PROTOBUF = {"Content-Type": "application/protobuf"}
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/v0/connect/start", PROTOBUF),
        ("POST", "/v0/connect/flush", PROTOBUF),
        ("POST", "/v1/checkpoint", {}),
        ("POST", "/v1/checkpoint/01RUN/steps", {}),
        ("POST", "/v1/realtime/publish/tee?channel=01RUN", BYTES),
        ("GET", "/v1/checkpoint/01RUN/output?token=x", {}),
        ("GET", "/v1/http/runs/01RUN/output?token=x", {}),
    ],
)
def test_what_is_not_supported_says_so(
    developing: str, method: str, path: str, headers: dict[str, str]
) -> None:
    content = b"\n\x01a" if headers else b""
    answer = httpx.request(method, f"{developing}{path}", content=content, headers=headers)
    assert answer.status_code == 501
    assert "not supported" in answer.json()["error"]


def test_metadata_of_a_run_is_taken(developing: str) -> None:
    body = {"target": {"run_id": "01RUN"}, "metadata": []}
    assert httpx.post(f"{developing}/v1/runs/01RUN/metadata", json=body).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "text/stream", "application/protobuf"])
def test_other_endpoints_take_json_alone(developing: str, kind: str) -> None:
    answer = httpx.post(f"{developing}/v1/signals", content=b"x", headers={"Content-Type": kind})
    assert answer.status_code == 415
