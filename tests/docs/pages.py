"""The pages of the documentation."""

from tests.conftest import ROOT

ALL = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FEATURES = sorted((ROOT / "docs" / "features").glob("*.md"))
# Those whose examples are run.
WITH_EXAMPLES = [
    *(ROOT / "docs" / name for name in ("functions.md", "dagster.md", "testing.md")),
    *FEATURES,
]
