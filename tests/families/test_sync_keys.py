"""Several rows with one key in one load: the newest is kept, or the load is refused."""

from pathlib import Path
from typing import Any

import pytest

from runyard.testing import Yard
from tests.families.syncs import SYNCED, RawApi, files, load, refusal, rest, texts

pytestmark = SYNCED

OLD, NEW = (
    '{"id": 1, "v": "old", "at": "2024-01-01T00:00:00Z"}',
    '{"id": 1, "v": "new", "at": "2024-01-02T00:00:00Z"}',
)


@pytest.mark.parametrize("rows", [[OLD, NEW], [NEW, OLD]])
def test_of_two_rows_with_one_key_the_newest_stays(
    yard: Yard, declare: Any, raw_api: RawApi, rows: list[str]
) -> None:
    raw_api.body = f"[{', '.join(rows)}]".encode()
    declare(rest(raw_api, cursor="at", cursor_param="since"))
    assert (found := load(yard)).status == "succeeded", found
    assert [row["v"] for row in texts()] == ["new"]


def test_rows_that_differ_and_have_one_key_are_refused(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "a.csv").write_text("id,v\n1,a\n2,b\n2,b\n")
    declare(files(folder, key=["id"]))
    assert (found := load(yard)).status == "succeeded", found
    (folder / "b.csv").write_text("id,v\n1,x\n3,y\n3,z\n")
    assert "people: different rows have the same key id=3" in refusal(load(yard))
    assert [row["v"] for row in texts()] == ["a", "b"]
    (folder / "b.csv").write_text("id,v\n1,x\n3,y\n")
    assert (found := load(yard)).status == "succeeded", found
    assert [row["v"] for row in texts()] == ["x", "b", "y"]
