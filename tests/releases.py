"""A later release of Runyard: a copy of the package with more migrations, run as processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

MIGRATION = '''"""{title}."""

from alembic import op

from runyard.store.migration_needs import Needs

revision = "{revision}"
down_revision = "{after}"
{needs}


def upgrade() -> None:
    {body}
'''


def migration(
    revision: str,
    sql: str,
    needs: str = "",
    *,
    title: str = "A change",
    after: str = "0001_initial",
) -> str:
    """The source of a migration that executes `sql`; `needs` are the arguments of `Needs`."""
    return MIGRATION.format(
        title=title,
        revision=revision,
        after=after,
        needs=f"needs = Needs({needs})" if needs else "",
        body=f"op.execute({sql!r})",
    )


@dataclass
class Release:
    """A release, whose commands run in processes of their own.

    Attributes
    ----------
    folder
        Where its package is.
    environment
        Variables of its commands besides those of the tests.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command, with its output in pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "runyard", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment, "PYTHONPATH": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


THIS = Release(ROOT)


def later_release(folder: Path, **migrations: str) -> Release:
    """A copy of the package with these migrations besides its own: their sources by revision."""
    shutil.copytree(
        ROOT / "runyard", folder / "runyard", ignore=shutil.ignore_patterns("__pycache__")
    )
    versions = folder / "runyard" / "store" / "migrations" / "versions"
    for revision, source in migrations.items():
        (versions / f"{revision.removeprefix('r')}.py").write_text(source, encoding="utf-8")
    return Release(folder)
