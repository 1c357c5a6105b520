"""Stores what ops print, for the Dagster UI, at the cost of two open files per run.

Dagster's own local manager also copies it to the terminal, for which it starts four processes per
run. A warm worker executes a whole run in a fraction of the time that takes.
"""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from runyard.dagster_adapter.internals import (
    CapturedLogContext,
    ConfigurableClassData,
    LocalComputeLogManager,
    redirect_to_file,
)
from runyard.settings import settings
from runyard.store.data_folder import make_folder


class WarmComputeLogManager(LocalComputeLogManager):
    """Writes a run's standard output and error to files in the data folder."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir=str(settings().data / "logs"), inst_data=inst_data)

    # Whether this process executes one run at a time: its output is that of the run.
    redirects = True

    @contextmanager
    @override
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        if not self.redirects:
            yield CapturedLogContext(log_key)
            return
        out, err = (
            Path(self.get_captured_local_path(log_key, extension)) for extension in ("out", "err")
        )
        make_folder(out.parent)
        with redirect_to_file(sys.stdout, out), redirect_to_file(sys.stderr, err):
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()

    @classmethod
    @override
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    @override
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(inst_data=inst_data)
