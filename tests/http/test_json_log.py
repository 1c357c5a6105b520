"""The log of a web process as JSON."""

import json
from pathlib import Path

from tests.web_process import WebProcess


def test_every_line_of_a_web_process_is_json(
    web: WebProcess, web_database_url: str, tmp_path: Path
) -> None:
    own = WebProcess(
        web_database_url,
        tmp_path / "log",
        RUNYARD_LOG_FORMAT="json",
        RUNYARD_LOG_LEVEL="info",
    )
    own.keys = web.keys
    own.start()
    try:
        answer = own.get("/api/functions")
    finally:
        own.stop()
    lines = [json.loads(line) for line in own.log().splitlines()]
    [line] = [line for line in lines if line["message"].startswith("GET /api/functions 200")]
    assert line["request"] == answer.headers["x-request-id"]
    assert line["logger"] == "runyard.requests"
