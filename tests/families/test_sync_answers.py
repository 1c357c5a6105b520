"""Answers without rows, and damaged archives: they are refused, and the table stays."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from runyard.testing import Yard
from tests.families.syncs import SYNCED, RawApi, files, load, refusal, rest, texts

pytestmark = SYNCED


@pytest.mark.parametrize("body", [b'{"error": "down"}', b'{"data": null}', b'{"data": {}}'])
def test_an_answer_without_rows_empties_no_table(
    yard: Yard, declare: Any, raw_api: RawApi, body: bytes
) -> None:
    declare(rest(raw_api, key=[], rows="data.items"))
    raw_api.body = b'{"data": {"items": [{"id": 1}]}}'
    assert load(yard).status == "succeeded"
    raw_api.body = body
    assert "/people answers without rows at data.items" in refusal(load(yard))
    assert texts() == [{"id": "1"}]
    raw_api.body = b'{"data": {"items": []}}'
    assert load(yard).status == "succeeded"
    assert texts() == []


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"id,v\n1,2\n" * 5000, mtime=0)[:-40], b"id,v\n1,2\n"],
    ids=["cut", "not packed"],
)
def test_a_packed_file_that_is_damaged_is_refused(
    yard: Yard, declare: Any, folder: Path, content: bytes
) -> None:
    (folder / "a.csv.gz").write_bytes(content)
    declare(files(folder))
    assert "people: a.csv.gz cannot be unpacked" in refusal(load(yard))
