"""Folders that do not exist, and files with only a header."""

from pathlib import Path
from typing import Any

import pytest

from runyard.testing import Yard
from tests.families.syncs import SYNCED, files, kinds, load, refusal, texts

pytestmark = SYNCED


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_header_alone_is_a_table_without_rows(
    yard: Yard, declare: Any, folder: Path, ending: str
) -> None:
    (folder / "people.csv").write_bytes(f"id;name{ending}".encode())
    declare(files(folder))
    assert load(yard).output["rows"] == {"people": 0}
    assert kinds() == {"id": "text", "name": "text"}


def test_a_folder_that_is_not_there_empties_no_table(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n")
    declare(files(folder))
    assert load(yard).status == "succeeded"
    folder.rename(folder.with_name("away"))
    assert f"s: there is no folder {folder}" in refusal(load(yard))
    assert texts() == [{"id": "1", "v": "a"}]
