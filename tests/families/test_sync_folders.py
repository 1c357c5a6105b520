"""Folders of files: each is read once, whatever its time and whatever other tables are read."""

import os
from pathlib import Path
from typing import Any

from runyard.testing import Yard
from tests.families.syncs import SYNCED, files, load, table, texts
from tests.tables import rows

pytestmark = SYNCED


def write(path: Path, content: str, at: int) -> None:
    path.write_text(content)
    os.utime(path, (1_700_000_000 + at,) * 2)


def test_a_new_file_that_is_older_than_the_last_one_is_read(
    yard: Yard, declare: Any, folder: Path
) -> None:
    declare(files(folder, key=["id"]))
    write(folder / "b.csv", "id,v\n2,b\n", at=100)
    assert load(yard).output["rows"] == {"people": 1}
    write(folder / "a.csv", "id,v\n1,a\n", at=50)
    assert load(yard).output["rows"] == {"people": 1}
    assert load(yard).output["rows"] == {"people": 0}
    write(folder / "a.csv", "id,v\n1,changed\n", at=60)
    assert load(yard).output["rows"] == {"people": 1}
    assert [row["v"] for row in texts()] == ["changed", "b"]


def test_a_newer_file_of_another_table_hides_none(yard: Yard, declare: Any, folder: Path) -> None:
    declare(
        files(folder, key=["id"], pattern="p*.csv")
        + table(name="pets", key=["id"], pattern="q*.csv")
    )
    write(folder / "p1.csv", "id,v\n1,a\n", at=100)
    write(folder / "q1.csv", "id,v\n1,a\n", at=120)
    assert load(yard).output["rows"] == {"people": 1, "pets": 1}
    write(folder / "p2.csv", "id,v\n2,b\n", at=110)
    assert load(yard).output["rows"] == {"people": 1, "pets": 0}
    assert len(rows("SELECT FROM sync_s.people")) == 2
